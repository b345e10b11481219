//! Whole fronts of methods, and methods at the same cost.
//!
//! Each hand-made method is swept over its settings on calibration images; the settings on its front there are
//! measured on the images of the comparison, image by image. There are two studies of a policy: its selection with
//! its mean budgets for every image (what adapting to the image is worth), and the hand-made selections with its
//! budgets of each image (what its selection is worth). Policies may be given for several seeds, and other trained
//! policies as rivals: policies of one name are compared by their means. A policy with the read-out `sample` has no
//! threshold: it is one point, and its front is the mixtures of that point and the dense model.
//!
//! The folder keeps the figures of every method that is done, so that an interrupted comparison can continue.

mod analysis;
mod matched;
mod measure;
mod outcome;
mod setting;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vitrim_data::{ContentHash, Dataset};
use vitrim_durable::FolderLock;
use vitrim_hub::{self as hub, local};
use vitrim_prune::{AnyPolicy, FIT_IMAGES, Fit};
use vitrim_ranks::{RankError, Ranks};
use vitrim_vit::{Precision, VitSpec, cost};

pub use analysis::{
    AtCost, AtLoss, Interval, MethodAtCost, MethodAtLoss, MethodFigures, PointFigures, with_spread,
};
use measure::{Measured, measure};
pub use outcome::Mean;
use outcome::Outcome;
pub use setting::Study;
use setting::{Basis, Setting, Subject, Variant, swept};

use crate::calibrate::{Calibration, cost_grid, grid, record};
use crate::error::{MeasureError, Result};
use crate::fits::{Fits, at_published_numbers};
use crate::model::Loaded;
use crate::model::open_policy;
use crate::passes::PassOptions;
use crate::progress::Listener;
use crate::speed::bench_images::BenchImages;
use crate::speed::{SpeedOptions, speed_up};
use vitrim_prune::Method;

/// Largest number of settings per method that are measured on the images of the comparison.
const FRONT_POINTS: usize = 12;
/// Batch size of the speed measurement.
const SPEED_BATCH: usize = 32;
/// Version of the format in the folder.
const VERSION: u32 = 5;

/// How to compare.
#[derive(Clone, Debug)]
pub(crate) struct CompareOptions {
    /// How images are loaded.
    pub pass: PassOptions,
    /// Methods to compare.
    pub methods: Vec<Method>,
    /// The studies of the policies called [`POLICY`].
    pub studies: Vec<Study>,
    /// Largest number of images to sweep the settings on.
    pub sweep_images: usize,
    /// Costs at which methods are compared, as shares of the dense MACs.
    pub costs: Vec<f64>,
    /// Losses of top-1 at which methods are compared, pp.
    pub losses: Vec<f64>,
    /// Number of settings to measure on either side of each of these costs and losses; `None` for whole fronts.
    pub near: Option<NonZeroUsize>,
    /// Time to measure the images/s of each point for; `None` to skip the measurement.
    pub speed: Option<Duration>,
    /// The ranks that share the images.
    pub ranks: Ranks,
}

/// Name of the policy, next to its rivals.
pub const POLICY: &str = "policy";

/// A policy to compare.
#[derive(Clone, Debug)]
pub struct Contender {
    /// [`POLICY`], or a rival's name; several policies of one name were trained from different seeds.
    pub name: String,
    /// The policy.
    pub policy: AnyPolicy,
    /// The folder that it was read from.
    pub folder: PathBuf,
}

impl Contender {
    /// Reads the policy in `folder`, which may be an `hf://` reference, to compare it on `loaded` under the name
    /// `name`.
    ///
    /// # Errors
    /// As [`open_policy`].
    pub fn open(name: &str, folder: &Path, loaded: &Loaded) -> Result<Self> {
        let folder = local(folder, hub::Kind::Policy)?.into_owned();
        Ok(Contender { name: name.to_owned(), policy: open_policy(&folder, loaded)?, folder })
    }

    fn samples(&self) -> bool {
        self.policy.dial().is_random()
    }

    /// The policy's calibration record; `None` if its read-out is `sample`, which has no threshold.
    fn record(&self) -> Result<Option<Calibration>> {
        (!self.samples()).then(|| record(&self.policy, &self.folder)).transpose()
    }
}

/// The subjects and the data of a comparison.
#[derive(Clone, Copy)]
pub(crate) struct Compared<'a> {
    /// The backbone.
    pub loaded: &'a Loaded,
    /// The policies; the hand-made methods may also use the stages of the first one.
    pub contenders: &'a [Contender],
    /// The data set of the images below.
    pub data: &'a str,
    /// Images to sweep settings on.
    pub sweep: &'a Dataset,
    /// Images to compare on.
    pub images: &'a Dataset,
}

/// The result of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The backbone.
    pub model: String,
    /// Data type of the backbone's arithmetic, dense and pruned.
    #[serde(with = "crate::model::dtype", default)]
    pub dtype: Precision,
    /// Number of images that were compared.
    pub images: usize,
    /// Whether answers were judged by labels; otherwise by the dense model.
    pub labelled: bool,
    /// What was guessed of the labels; see [`Dataset::label_notes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_notes: Vec<String>,
    /// Which layout was read, and what lies beside the images; see [`Dataset::layout_notes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layout_notes: Vec<String>,
    /// Top-1 of the dense model, percent.
    pub dense_top1: f64,
    /// MACs of the dense model per image, in units of 1e9.
    pub dense_gmacs: f64,
    /// One entry for each method and study.
    pub methods: Vec<MethodFigures>,
    /// The methods at each requested cost.
    pub at_cost: Vec<AtCost>,
    /// The methods at each requested drop.
    pub at_drop: Vec<AtLoss>,
}

/// Identifies what the figures in a folder were measured on.
#[derive(Serialize)]
struct Identity {
    version: u32,
    backbone: String,
    /// Figures without this field are in f32.
    #[serde(with = "crate::model::dtype")]
    dtype: Precision,
    /// Hash of the policy, see [`policy_hash`].
    policy: Option<String>,
    data: String,
    /// Split and number of images.
    sweep: (String, usize),
    images: (String, usize),
    /// The costs and drops, and the number of settings on either side of each, if not the whole front is measured.
    near: Option<(usize, Vec<f64>, Vec<f64>)>,
}

/// A method's figures, as kept in the folder.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// An [`Identity`], possibly of another version.
    identity: serde_json::Value,
    measured: Measured,
}

/// Compares, and keeps the results in `folder`, which only the first rank reads and writes; `listener` is told about the
/// next step. Returns the same on all ranks.
///
/// # Errors
/// If a cost is not a share or a drop not a percentage, images cannot be read, a method does not fit the backbone,
/// `folder` has figures of another comparison, the comparison was asked to stop, the ranks were started differently, or
/// another rank has failed.
pub(crate) fn compare(
    compared: Compared<'_>,
    options: &CompareOptions,
    folder: &Path,
    listener: &mut Listener<'_>,
) -> Result<Comparison> {
    if compared.loaded.spec.num_classes == 0 {
        return Err(MeasureError::Setting(format!(
            "compare ranks methods by top-1, and {} has no classes; `eval` has their drifts",
            compared.loaded.origin
        )));
    }
    for (name, values, most) in [("costs", &options.costs, 1.0), ("drops", &options.losses, 100.0)] {
        if let Some(bad) = values.iter().find(|value| !(0.0..=most).contains(*value)) {
            return Err(MeasureError::Setting(format!("{name} {bad} must lie between 0 and {most}")));
        }
    }
    let Compared { loaded, contenders, .. } = compared;
    check_names(contenders)?;
    let ranks = &options.ranks;
    agree(compared, options)?;
    let _lock = ranks.is_first().then(|| FolderLock::acquire(folder)).transpose()?;
    let records: Vec<Option<Calibration>> =
        contenders.iter().map(Contender::record).collect::<Result<_>>()?;

    let mut all: Vec<(Subject, Measured)> = Vec::new();
    let mut fits = Fits::default();
    for subject in subjects(options, contenders) {
        let path = folder.join(format!("{subject}.json"));
        let place = match subject {
            Subject::Learned { place, .. } | Subject::Studied { place, .. } => place,
            Subject::Method(_) => 0,
        };
        let policy = contenders.get(place).map(|contender| &contender.policy);
        let record = records.get(place).and_then(Option::as_ref);
        let identity = identity(compared, place, options)?;
        let identity = serde_json::to_value(identity).expect("an identity is plain data");
        let before = if ranks.is_first() { kept(&path, &identity)? } else { None };
        if let Some(measured) = of_first(before, ranks)? {
            listener.note(&format!("{subject}: kept from before"));
            all.push((subject, measured));
            continue;
        }
        let basis = Basis { policy, fit: fit(&mut fits, &subject, compared, options, listener)? };
        let settings = match subject {
            Subject::Method(_) | Subject::Learned { .. } => {
                let method = if let Subject::Method(method) = subject { method } else { Method::Policy };
                let own = policy.map(|policy| own_settings(policy, record, &loaded.spec)).transpose()?;
                let settings = swept(method, &loaded.spec, basis, &own.unwrap_or_default())?;
                listener.note(&format!("{subject}: sweeping {} settings", settings.len()));
                let images = (compared.sweep, Some(options.sweep_images));
                let swept = listener.follow("comparing", |progress| {
                    measure(loaded, basis, images, (&subject, settings), options, progress)
                })?;
                front(&swept, options)
            }
            Subject::Studied { variant: Variant::Selection(_), .. } => of_policy(&all, place),
            Subject::Studied { variant: Variant::FixedBudgets, seed, .. } => {
                let settings = of_policy(&all, place);
                listener.note(&format!("{subject}: the mean budgets of {} settings", settings.len()));
                let images = (compared.sweep, Some(options.sweep_images));
                let leader = Subject::Learned { name: POLICY.to_owned(), seed, place };
                let swept = listener.follow("comparing", |progress| {
                    measure(loaded, basis, images, (&leader, settings), options, progress)
                })?;
                let budgets = |outcome: &Outcome| Setting::TopR(outcome.keep_ratios());
                swept.outcomes.iter().map(budgets).collect()
            }
        };
        listener.note(&format!("{subject}: measuring {} settings", settings.len()));
        let images = (compared.images, options.pass.images);
        let measured = listener.follow("comparing", |progress| {
            measure(loaded, basis, images, (&subject, settings), options, progress)
        })?;
        let text = serde_json::to_vec(&Kept { identity, measured: measured.clone() });
        if ranks.is_first() {
            vitrim_durable::replace(&path, &text.expect("figures are plain data"))?;
        }
        all.push((subject, measured));
    }
    let Some((_, first)) = all.first() else {
        return Err(MeasureError::Setting("no method to compare; name some, or give a policy".into()));
    };
    let dense = first.dense.all();
    let (images, labelled) = (first.dense.costs.len(), first.labelled);
    listener.note("drawing the images anew for the intervals");
    let (mut methods, at_cost, at_drop) = analysis::analyse(&all, &options.costs, &options.losses);
    if let Some(time) = options.speed {
        let pixels = BenchImages::of(loaded, compared.images, SPEED_BATCH, options.pass.on_bad_image)?;
        for ((subject, measured), figures) in all.iter().zip(&mut methods) {
            let (method, place) = match subject {
                Subject::Method(method) => (*method, 0),
                Subject::Learned { place, .. } => (Method::Policy, *place),
                // The speed of a study is that of its policy.
                Subject::Studied { .. } => continue,
            };
            let policy = contenders.get(place).map(|contender| &contender.policy);
            let basis = Basis { policy, fit: fit(&mut fits, subject, compared, options, listener)? };
            listener.note(&format!("{subject}: measuring images/s"));
            for (outcome, point) in measured.outcomes.iter().zip(&mut figures.points) {
                let pruner = outcome.setting.pruner(method, &loaded.spec, basis)?;
                let speed = SpeedOptions { rounds: 5, time, batches: usize::MAX };
                let speed = speed_up(&loaded.model, pruner.as_ref(), pixels.pixels(), SPEED_BATCH, speed)?;
                point.speed_up = Some(speed.speed_up);
                listener.follow("timing", |progress| progress.at(0, 0))?;
            }
        }
    }
    Ok(Comparison {
        model: loaded.origin.clone(),
        dtype: loaded.model.weights().precision(),
        images,
        labelled,
        label_notes: compared.images.label_notes(),
        layout_notes: compared.images.layout_notes().to_vec(),
        dense_top1: dense.top1,
        dense_gmacs: cost::dense_macs(&loaded.spec) as f64 / 1e9,
        methods,
        at_cost,
        at_drop,
    })
}

/// Checks that all ranks compare the same.
fn agree(compared: Compared<'_>, options: &CompareOptions) -> Result<()> {
    if options.ranks.is_alone() {
        return Ok(());
    }
    if options.speed.is_some() {
        let reason = "speeds are measured by one process; give --no-speed, or start it without mpirun";
        return Err(MeasureError::Setting(reason.into()));
    }
    let subjects = subjects(options, compared.contenders).into_iter();
    let mut facts: Vec<_> = subjects.map(|subject| ("list of methods", subject.to_string())).collect();
    for place in 0..compared.contenders.len().max(1) {
        let identity = serde_json::to_string(&identity(compared, place, options)?);
        facts.push(("comparison", identity.expect("an identity is plain data")));
    }
    Ok(options.ranks.agree(&facts, "start the same vitrim with the same command on all")?)
}

/// What the first of `ranks` has; `own` of another rank is not looked at.
fn of_first(own: Option<Measured>, ranks: &Ranks) -> Result<Option<Measured>> {
    if ranks.is_alone() {
        return Ok(own);
    }
    let text = || own.map(|measured| serde_json::to_vec(&measured).expect("figures are plain data"));
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(|_| RankError::Damaged(0));
    Ok(ranks.from_first(text)?.map(read).transpose()?)
}

/// The fit of `subject`, made once, to the first images of the sweep; `None` if it is not a fitted method.
fn fit<'f>(
    fits: &'f mut Fits,
    subject: &Subject,
    compared: Compared<'_>,
    options: &CompareOptions,
    listener: &mut Listener<'_>,
) -> Result<Option<&'f Fit>> {
    let Subject::Method(method) = subject else { return Ok(None) };
    if method.is_fitted() && fits.get(*method).is_none() {
        listener.note(&match method.needs_images(&compared.loaded.spec) {
            true => format!("{subject}: fitting to {FIT_IMAGES} images of the sweep"),
            false => at_published_numbers(*method),
        });
        listener.follow("fitting", |progress| {
            let tell = &mut progress.tell();
            fits.add(*method, compared.loaded, compared.sweep, options.pass.on_bad_image, tell)
        })?;
    }
    Ok(fits.get(*method))
}

/// Checks that no rival has the name of another subject, or a name that cannot be a file name.
fn check_names(contenders: &[Contender]) -> Result<()> {
    let taken = |name: &str| Method::all().any(|method| method.name() == name) || name.starts_with("policy-");
    let plain = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') && !name.is_empty()
    };
    let bad = |contender: &&Contender| {
        contender.name != POLICY && (taken(&contender.name) || !plain(&contender.name))
    };
    match contenders.iter().find(bad) {
        None => Ok(()),
        Some(Contender { name, .. }) => Err(MeasureError::Setting(format!(
            "a rival cannot be called '{name}'; use letters, digits, - and _, and no method's name"
        ))),
    }
}

/// The subjects of the comparison, in order: policies, rivals, the other methods, and the studies of the policies
/// last.
fn subjects(options: &CompareOptions, contenders: &[Contender]) -> Vec<Subject> {
    let seed = |place: usize| {
        contenders[..place].iter().filter(|before| before.name == contenders[place].name).count()
    };
    let learned = |(place, contender): (usize, &Contender)| Subject::Learned {
        seed: seed(place),
        name: contender.name.clone(),
        place,
    };
    let of_name = |policy: bool| {
        let all = contenders.iter().enumerate();
        all.filter(move |(_, contender)| (contender.name == POLICY) == policy).map(learned)
    };
    let mut subjects: Vec<Subject> = Vec::new();
    for method in &options.methods {
        match method {
            Method::Policy => subjects.extend(of_name(true)),
            method => subjects.push(Subject::Method(*method)),
        }
    }
    let rivals = subjects.iter().take_while(|subject| matches!(subject, Subject::Learned { .. })).count();
    subjects.splice(rivals..rivals, of_name(false));
    let studied = contenders.iter().enumerate().filter(|(_, contender)| {
        contender.name == POLICY && !contender.samples() && options.methods.contains(&Method::Policy)
    });
    let studied: Vec<(usize, &Contender)> = studied.collect();
    for variant in options.studies.iter().flat_map(|study| study.variants()) {
        for (place, contender) in &studied {
            let fits = match (variant, &contender.policy) {
                // What is studied is what an actor adds.
                (_, AnyPolicy::Method(_)) => false,
                (Variant::Selection(method), AnyPolicy::Learned(policy)) => {
                    method.can_act(&policy.drop_stages())
                }
                (Variant::FixedBudgets, _) => true,
            };
            if fits {
                subjects.push(Subject::Studied { variant, seed: seed(*place), place: *place });
            }
        }
    }
    subjects
}

/// The policy's thresholds or costs: those of its calibration, and the whole grid, of which these may be a part.
fn own_settings(policy: &AnyPolicy, record: Option<&Calibration>, spec: &VitSpec) -> Result<Vec<f64>> {
    let calibrated = record.into_iter().flat_map(|record| record.front.points()).map(|point| point.setting);
    let grid = match policy {
        AnyPolicy::Learned(_) => grid(),
        AnyPolicy::Method(policy) => cost_grid(policy.least_cost(spec)?),
    };
    let mut settings: Vec<f64> = calibrated.chain(grid).collect();
    settings.sort_by(f64::total_cmp);
    settings.dedup();
    Ok(settings)
}

/// The settings on the front of the sweep: evenly thinned, or those near the requested costs and losses.
fn front(swept: &Measured, options: &CompareOptions) -> Vec<Setting> {
    let means: Vec<Mean> = swept.outcomes.iter().map(Outcome::all).collect();
    let hull = matched::hull(&means);
    let on_hull: Vec<Mean> = hull.iter().map(|&place| means[place]).collect();
    let places = match options.near {
        Some(near) => {
            matched::near(&on_hull, swept.dense.all().top1, &options.costs, &options.losses, near.get())
        }
        None => {
            let wanted = FRONT_POINTS.min(hull.len());
            let place = |i: usize| (i * hull.len().saturating_sub(1)).checked_div(wanted - 1).unwrap_or(0);
            (0..wanted).map(place).collect()
        }
    };
    places.into_iter().map(|place| swept.outcomes[hull[place]].setting.clone()).collect()
}

/// The settings of the policy at index `place` in `all`.
fn of_policy(all: &[(Subject, Measured)], place: usize) -> Vec<Setting> {
    let policy =
        all.iter().find(|(subject, _)| matches!(subject, Subject::Learned { place: p, .. } if *p == place));
    let outcomes = policy.into_iter().flat_map(|(_, measured)| &measured.outcomes);
    outcomes.map(|outcome| outcome.setting.clone()).collect()
}

/// The identity of what is measured with the policy at index `place`.
fn identity(compared: Compared<'_>, place: usize, options: &CompareOptions) -> Result<Identity> {
    let policy = compared.contenders.get(place).map(|contender| policy_hash(&contender.folder));
    let images = |dataset: &Dataset, limit: usize| (dataset.split().to_owned(), dataset.len().min(limit));
    Ok(Identity {
        version: VERSION,
        backbone: compared.loaded.id.fingerprint.clone(),
        dtype: compared.loaded.model.weights().precision(),
        policy: policy.transpose()?,
        data: compared.data.to_owned(),
        sweep: images(compared.sweep, options.sweep_images),
        images: images(compared.images, options.pass.images.unwrap_or(usize::MAX)),
        near: options.near.map(|near| (near.get(), options.costs.clone(), options.losses.clone())),
    })
}

/// Hash of the policy in `folder`: of the list of its two files, each as its name, a zero byte, and the hash of its
/// bytes. Figures are kept for years, so that the hash must not depend on the toolchain.
fn policy_hash(folder: &Path) -> Result<String> {
    let mut list = Vec::new();
    for name in ["policy.safetensors", "policy.json"] {
        let path = folder.join(name);
        let bytes =
            std::fs::read(&path).map_err(|error| MeasureError::Policy { path, reason: error.to_string() })?;
        list.extend_from_slice(name.as_bytes());
        list.push(0);
        list.extend_from_slice(ContentHash::of(&bytes).as_bytes());
    }
    Ok(ContentHash::of(&list).to_string())
}

/// The format version of kept figures; the other fields may differ between versions.
#[derive(Deserialize)]
struct Versioned {
    identity: VersionOnly,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The figures at `path`, if there are any.
fn kept(path: &Path, identity: &serde_json::Value) -> Result<Option<Measured>> {
    let bad = |reason: String| MeasureError::Run { path: PathBuf::from(path), reason };
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(|error| bad(format!("cannot read it ({error})")))?;
    let damaged =
        |error: serde_json::Error| bad(format!("damaged ({error}); remove it, and it is measured again"));
    let Versioned { identity: VersionOnly { version } } = serde_json::from_slice(&text).map_err(damaged)?;
    if version != VERSION {
        let reason = "was measured by another version of vitrim; remove it, and it is measured again";
        return Err(bad(reason.to_owned()));
    }
    let kept: Kept = serde_json::from_slice(&text).map_err(damaged)?;
    if kept.identity != *identity {
        let reason = "was measured with another backbone, dtype, policy, other images or other settings, or by another version of vitrim; give another folder";
        return Err(bad(reason.to_owned()));
    }
    Ok(Some(kept.measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that Python's `blake3` gives.
    const PINNED: &str = "cce6bbebb08116cbcf5f3e452d033e55";

    #[test]
    fn a_policys_hash_is_pinned() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("policy.safetensors"), b"weights").unwrap();
        std::fs::write(folder.path().join("policy.json"), b"{}").unwrap();
        // The same on every machine, with every toolchain, in every version.
        assert_eq!(policy_hash(folder.path()).unwrap(), PINNED);
        // Moving a byte from one file to the other changes the hash.
        std::fs::write(folder.path().join("policy.safetensors"), b"weights{").unwrap();
        std::fs::write(folder.path().join("policy.json"), b"}").unwrap();
        assert_ne!(policy_hash(folder.path()).unwrap(), PINNED);
        assert!(policy_hash(Path::new("nowhere")).is_err());
    }

    #[test]
    fn figures_of_another_version_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        std::fs::write(&path, br#"{"identity": {"version": 3, "policy": 1234567890123}}"#).unwrap();
        let identity = Identity {
            version: VERSION,
            backbone: String::new(),
            dtype: Precision::F32,
            policy: None,
            data: String::new(),
            sweep: (String::new(), 0),
            images: (String::new(), 0),
            near: None,
        };
        let identity = serde_json::to_value(identity).unwrap();
        let error = kept(&path, &identity).err().unwrap().to_string();
        assert!(error.contains("another version of vitrim") && error.contains("policy.json"), "{error}");
    }
}
