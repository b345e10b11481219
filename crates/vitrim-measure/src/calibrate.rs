//! One number for the user to ask for: the threshold that keeps the drop within it, found on held-out
//! images and written into the policy.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vitrim_data::{Dataset, Loader, LoaderOptions, OnBadImage, Order};
use vitrim_prune::keep_shares;
use vitrim_prune::{KeepProfile, LearnedPruner, Policy, Pruned, Pruner, ReadOut, run_from};
use vitrim_vit::{Backbone, PixelBatch, Precision, Site, Taps, VitSpec, Want};

use crate::error::{MeasureError, Result};
use crate::front::{Choice, Front, FrontPoint, Measure, Verdict, choose};
use crate::metrics::Metrics;
use crate::model::Loaded;
use crate::progress::Progress;
use crate::statistics::Confidence;

/// The drop allowed where nobody says, pp.
pub const MAX_DROP: f64 = 0.4;
/// Images a batch where nobody says.
pub const BATCH: usize = 64;
/// The threshold that keeps everything.
const KEEP_ALL: f64 = 0.0;
/// Images before which no threshold is given up.
const LEAST_IMAGES: usize = 500;
/// A drop, pp, that is measured even if a smaller one is asked for, so that the record can be asked too.
const LEAST_BEYOND: f64 = 3.0;
/// Thresholds on the grid.
const GRID: usize = 31;
/// The grid's last threshold, as a logit: 0.999999. Policies are sure of most agents, so that their mildest points lie far out.
const LAST_LOGIT: f64 = 13.82;
/// Thresholds are rounded to six digits, so that they can be typed.
const STEPS: f64 = 1e6;

/// The share of the drop asked for that a pilot aims at: the rest is what certainty takes.
const PILOT_SHARE: f64 = 0.85;

/// What was calibrated, on what: the record in `policy.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The data set.
    pub data: String,
    /// Its part.
    pub split: String,
    /// In what the backbone multiplied, dense and pruned: another precision decides a little differently, and
    /// nothing is certified for it. Records from before there was a choice are in f32.
    #[serde(with = "crate::model::dtype", default)]
    pub dtype: Precision,
    /// The drop allowed, pp; of a backbone without classes the drift, percent.
    pub max_drop: f64,
    /// The confidence asked for.
    pub confidence: Confidence,
    /// Whether the images certify it.
    pub certified: bool,
    /// The threshold chosen; 0, which keeps everything, if none is certified.
    pub threshold: f64,
    /// The choice in words.
    pub choice: String,
    /// What was measured.
    pub front: Front,
    /// What the [`pilot`] measured that chose the thresholds, where one did: on few images, and nothing is certified by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pilot: Option<Front>,
}

impl Calibration {
    /// The front that spans the most costs: the pilot's where there was one.
    pub fn widest(&self) -> &Front {
        self.pilot.as_ref().unwrap_or(&self.front)
    }
}

/// How to calibrate.
#[derive(Clone, Debug)]
pub struct CalibrationOptions {
    /// Thresholds to measure, ascending, fixed before any of the images is seen: [`grid`], or what a
    /// [`pilot`] on other images left of it.
    pub thresholds: Vec<f64>,
    /// The pilot's front, for the record.
    pub pilot: Option<Front>,
    /// The drop allowed, pp; of a backbone without classes the drift, percent.
    pub max_drop: f64,
    /// How sure to be.
    pub confidence: Confidence,
    /// At most so many images.
    pub images: usize,
    /// Images a batch.
    pub batch: usize,
    /// Decoding threads; 0 for one a core.
    pub workers: usize,
    /// What a corrupt image does.
    pub on_bad_image: OnBadImage,
}

/// Measures `policy` at a grid of thresholds on `dataset` (opened at `data`, called `split`) and writes
/// record and read-out into it.
///
/// # Errors
/// If images cannot be read, there are none, or it was ended.
pub fn calibrate(
    loaded: &Loaded,
    policy: &mut Policy,
    (data, split): (&str, &str),
    dataset: &Dataset,
    options: &CalibrationOptions,
    progress: &mut Progress<'_>,
) -> Result<Choice> {
    let front = measure(loaded, policy, dataset, options, progress)?;
    let choice = choose(&front, options.max_drop, options.confidence);
    let record = Calibration {
        data: data.to_owned(),
        split: split.to_owned(),
        dtype: loaded.model.weights().precision(),
        max_drop: options.max_drop,
        confidence: options.confidence,
        certified: matches!(choice.verdict, Verdict::Certified(_)),
        threshold: threshold(&choice),
        choice: choice.to_string(),
        front,
        pilot: options.pilot.clone(),
    };
    policy.read_out = ReadOut::Threshold { threshold: record.threshold };
    let value = serde_json::to_value(&record);
    policy.calibration = Some(value.map_err(|error| MeasureError::Setting(error.to_string()))?);
    Ok(choice)
}

/// The calibration record of `policy`, read from `folder`.
///
/// # Errors
/// [`MeasureError::Policy`] if there is none, or it is damaged.
pub fn record(policy: &Policy, folder: &Path) -> Result<Calibration> {
    let bad = |reason: String| MeasureError::Policy { path: folder.join("policy.json"), reason };
    let value = policy.calibration.clone().ok_or_else(|| {
        bad("not calibrated, so that no drop can be chosen; run `vitrim calibrate` on it first".into())
    })?;
    serde_json::from_value(value)
        .map_err(|error| bad(format!("damaged calibration record ({error}); calibrate the policy again")))
}

/// Sets `policy`, read from `folder`, to another drop or confidence (what is `None` stays as
/// calibrated), by its record and without images.
///
/// # Errors
/// As [`record`].
pub fn choose_from_record(
    policy: &mut Policy,
    folder: &Path,
    max_drop: Option<f64>,
    confidence: Option<Confidence>,
) -> Result<Choice> {
    let record = record(policy, folder)?;
    let max_drop = max_drop.unwrap_or(record.max_drop);
    let choice = choose(&record.front, max_drop, confidence.unwrap_or(record.confidence));
    policy.read_out = ReadOut::Threshold { threshold: threshold(&choice) };
    Ok(choice)
}

/// Sets `policy`, read from `folder`, to the mildest threshold on its record whose measured cost is at most
/// `gmacs` (1e9 MACs an image, the policy's own scoring included), without images and whatever its drop.
///
/// # Errors
/// As [`record`], or [`MeasureError::Setting`] if every threshold on record costs more.
pub fn choose_cost_from_record(policy: &mut Policy, folder: &Path, gmacs: f64) -> Result<FrontPoint> {
    let front = record(policy, folder)?.front;
    let points = front.points();
    let Some(point) = points.iter().find(|point| point.gmacs <= gmacs) else {
        let cheapest = points[points.len() - 1].gmacs;
        return Err(MeasureError::Setting(format!(
            "{}: no threshold on record costs {gmacs:.4} GMACs or less, the cheapest costs {cheapest:.4}; ask for \
             at least that, or train for a larger drop",
            folder.display()
        )));
    };
    policy.read_out = ReadOut::Threshold { threshold: point.setting };
    Ok(point.clone())
}

/// What hand-made methods at keep ratio `keep` cost at the stages of `policy`, 1e9 MACs an image: the cost that asking a
/// policy for a keep ratio stands for.
///
/// # Errors
/// [`MeasureError::Setting`] if `keep` does not lie between 0 and 1.
pub fn gmacs_at_keep(spec: &VitSpec, policy: &Policy, keep: f64) -> Result<f64> {
    let stages = policy.drop_stages();
    let profile = KeepProfile::new(spec, &stages, &keep_shares(&[keep], stages.len())?)?;
    Ok(profile.macs(spec, 0) as f64 / 1e9)
}

/// A point that [`choose_cost_from_record`] chose for a backbone of geometry `spec`, in one line.
///
/// # Errors
/// Never for a point of a record.
pub fn describe_point(spec: &VitSpec, point: &FrontPoint) -> Result<String> {
    let measure = if spec.num_classes == 0 { Measure::Drift } else { Measure::Drop };
    Ok(format!(
        "setting {} costs {:.4} GMACs, {:.1} % of dense, {name} {:.2} {}; its {name} is measured on {} images, and nothing \
         is certified",
        point.setting,
        point.gmacs,
        100.0 * point.cost,
        point.loss()?.measured(),
        measure.unit(),
        point.images,
        name = measure.name(),
    ))
}

/// Says so if `policy`, read from `folder`, was calibrated in another precision than it runs in.
pub fn uncertified_dtype(policy: &Policy, folder: &Path, precision: Precision) -> Option<String> {
    let calibrated = record(policy, folder).ok()?.dtype;
    (calibrated != precision).then(|| {
        format!(
            "calibrated in {calibrated}, so that no drop is certified in {precision}; `vitrim calibrate --dtype \
             {precision}` would certify one"
        )
    })
}

/// Whether `policy`'s threshold was chosen on `split` of the data set at `data`: then only other images give a fair drop.
pub fn calibrated_on(policy: &Policy, data: &str, split: &str) -> bool {
    let record = policy.calibration.clone().and_then(|r| serde_json::from_value::<Calibration>(r).ok());
    record.is_some_and(|record| record.data == data && record.split == split)
}

/// A drop that can be asked for, pp.
///
/// # Errors
/// [`MeasureError::Setting`] if it does not lie between 0 and 100.
pub fn check_max_drop(max_drop: f64) -> Result<f64> {
    if (0.0..=100.0).contains(&max_drop) {
        return Ok(max_drop);
    }
    Err(MeasureError::Setting(format!("max-drop {max_drop} must lie between 0 and 100 percentage points")))
}

/// What a backbone of geometry `spec` may lose, by what was given: a drop of top-1, pp, where it has classes, a drift of
/// its features, percent, where it has none. `None` if nothing was given.
///
/// # Errors
/// [`MeasureError::Setting`] if the other one was given, or it does not lie between 0 and 100.
pub fn allowed(spec: &VitSpec, max_drop: Option<f64>, max_drift: Option<f64>) -> Result<Option<f64>> {
    match (spec.num_classes, max_drop, max_drift) {
        (0, Some(_), _) => Err(MeasureError::Setting(
            "max-drop: the backbone has no classes whose top-1 could drop; give max-drift, percent".into(),
        )),
        (1.., _, Some(_)) => Err(MeasureError::Setting(
            "max-drift: the backbone has classes, and is held to their top-1; give max-drop, percentage points".into(),
        )),
        (_, None, Some(drift)) if !(0.0..=100.0).contains(&drift) => {
            Err(MeasureError::Setting(format!("max-drift {drift} must lie between 0 and 100 percent")))
        }
        _ => max_drop.map(check_max_drop).transpose().map(|drop| drop.or(max_drift)),
    }
}

/// The threshold of a choice; where nothing is certified, the one that keeps everything.
fn threshold(choice: &Choice) -> f64 {
    match choice.verdict {
        Verdict::Certified(chosen) => chosen.setting,
        Verdict::NotCertified { .. } => KEEP_ALL,
    }
}

/// 0.000001 to 0.999999, spaced by logits and denser around 0.5: policies may be sure or unsure. Fixed beforehand, so
/// that the order of the test is not picked by looking at drops.
pub fn grid() -> Vec<f64> {
    let half = (GRID / 2) as f64;
    let threshold = |i: usize| {
        let u = (i as f64 - half) / half;
        let logit = LAST_LOGIT * (0.22 * u + 0.78 * u.powi(5));
        rounded(probability(logit))
    };
    (0..GRID).map(threshold).collect()
}

/// A few thresholds around the one that `options.max_drop` will come to, judged by a pilot over
/// `options.thresholds` on `dataset`, whose images must not be those that are calibrated on: so that many images
/// can be calibrated on in little time. With them the front that the pilot measured.
///
/// `beyond`, descending, says where they lie: shares of the dense MACs beyond the cost that the pilot comes to. The first
/// should be mild, since a pilot may be wrong, and a threshold is tested only if all before it passed.
///
/// # Errors
/// As [`calibrate`].
pub fn pilot(
    loaded: &Loaded,
    policy: &Policy,
    dataset: &Dataset,
    beyond: &[f64],
    options: &CalibrationOptions,
    progress: &mut Progress<'_>,
) -> Result<(Vec<f64>, Front)> {
    let front = measure(loaded, policy, dataset, options, progress)?;
    // Few images say little about a drop, but it grows in proportion to D, which they do tell.
    let (mut drops, mut divergences) = (0.0, 0.0);
    for point in front.points() {
        drops += point.loss()?.measured();
        divergences += point.fidelity;
    }
    let divergence = PILOT_SHARE * options.max_drop * divergences / drops.max(f64::MIN_POSITIVE);
    let cost = between(&front, divergence, |point| point.fidelity, |point| point.cost);
    let threshold = |beyond: &f64| {
        rounded(probability(between(
            &front,
            -(cost + beyond),
            |point| -point.cost,
            |point| logit(point.setting),
        )))
    };
    let mut thresholds: Vec<f64> = beyond.iter().map(threshold).collect();
    thresholds.dedup();
    Ok((thresholds, front))
}

fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn logit(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln()
}

fn rounded(threshold: f64) -> f64 {
    (STEPS * threshold).round() / STEPS
}

/// What `y` is where `x`, which rises along the points of `front`, is `at`: by straight lines between the
/// points, and at most what it is at the ends.
fn between(front: &Front, at: f64, x: fn(&FrontPoint) -> f64, y: fn(&FrontPoint) -> f64) -> f64 {
    let points = front.points();
    for pair in points.windows(2) {
        let (low, high) = (x(&pair[0]), x(&pair[1]));
        if (low..high).contains(&at) {
            return y(&pair[0]) + (at - low) / (high - low) * (y(&pair[1]) - y(&pair[0]));
        }
    }
    y(if at < x(&points[0]) { &points[0] } else { &points[points.len() - 1] })
}

/// A threshold while it is measured.
struct Setting {
    threshold: f64,
    pruner: LearnedPruner,
    metrics: Metrics,
}

/// The front of `policy` over the grid. What runs before the first stage is shared by all thresholds.
///
/// A threshold whose drop clearly exceeds what anybody would ask for is given up half-way, and all
/// above it: that only shortens the sequence that is tested, so the guarantee stays.
fn measure(
    loaded: &Loaded,
    policy: &Policy,
    dataset: &Dataset,
    options: &CalibrationOptions,
    progress: &mut Progress<'_>,
) -> Result<Front> {
    let model = &loaded.model;
    let setting = |threshold: f64| Setting {
        threshold,
        pruner: LearnedPruner::new(&loaded.spec, policy).with_read_out(ReadOut::Threshold { threshold }),
        metrics: Metrics::new(&loaded.spec),
    };
    let mut settings: Vec<Setting> = options.thresholds.iter().copied().map(setting).collect();
    let first = settings[0].pruner.sites(&loaded.spec)[0];
    let loader_options = LoaderOptions {
        batch: options.batch,
        workers: options.workers,
        skip: 0,
        limit: Some(options.images),
        on_bad_image: options.on_bad_image,
        augment: None,
        corruption: None,
    };
    // Shuffled, so that a limit takes a fair sample of a data set that is sorted by class.
    let order = Order::Shuffled { seed: 0, epoch: 0 };
    let mut loader = Loader::new(dataset, order, &loaded.transform, loader_options)?;
    while let Some(batch) = loader.next().transpose()? {
        let keys = batch.keys();
        let mut state = model.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        model.advance(&mut state, first.0, first.1)?;
        let mut unpruned = state.clone();
        model.advance(&mut unpruned, Site::end(&loaded.spec), Taps::NONE)?;
        let dense = model.finish(&unpruned, Want::answer(&loaded.spec))?;
        // Once a threshold keeps everything, so do all below it, and need no run of their own.
        let mut kept_all: Option<Pruned> = None;
        for setting in settings.iter_mut().rev() {
            let pruned = match kept_all.take() {
                Some(pruned) => pruned,
                None => run_from(model, &setting.pruner, state.clone(), &keys)?,
            };
            setting.metrics.add(&dense, &pruned, &batch.labels);
            kept_all = keeps_all(&pruned, loaded.spec.num_tokens()).then_some(pruned);
        }
        give_up(&mut settings, (3.0 * options.max_drop).max(LEAST_BEYOND))?;
        progress.at(loader.position(), loader.total())?;
    }
    let images = settings[0].metrics.images();
    if images == 0 {
        let data = dataset.split().to_owned();
        return Err(MeasureError::Part {
            data,
            reason: "no image to calibrate on that can be decoded".into(),
        });
    }
    let labelled = settings[0].metrics.labelled();
    let points = settings
        .iter()
        .map(|setting| setting.metrics.front_point(setting.threshold))
        .collect::<Result<_>>()?;
    Ok(Front::new(labelled > 0, if labelled > 0 { labelled } else { images }, points)?)
}

/// Whether no token of `tokens` left any image.
fn keeps_all(pruned: &Pruned, tokens: usize) -> bool {
    let last = pruned.stages.last();
    last.is_none_or(|stage| stage.origins.len() == tokens * (stage.offsets.len() - 1))
}

/// Gives up the first threshold whose drop is surely above `beyond` pp, and those above it.
fn give_up(settings: &mut Vec<Setting>, beyond: f64) -> Result<()> {
    if settings[0].metrics.images() < LEAST_IMAGES {
        return Ok(());
    }
    for (i, setting) in settings.iter().enumerate().skip(1) {
        let (low, _) = setting.metrics.loss()?.interval(Confidence::new(0.95)?);
        if low > beyond {
            settings.truncate(i);
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pilots_thresholds_lie_between_those_of_the_grid() {
        let point = |setting: f64, cost: f64| FrontPoint {
            setting,
            cost,
            gmacs: cost,
            keep_ratio: vec![cost],
            drift: None,
            fidelity: 0.0,
            images: 10,
            dense_only_right: 0,
            pruned_only_right: 0,
        };
        let points = vec![point(0.2, 0.9), point(0.4, 0.8), point(0.5, 0.6)];
        let front = Front::new(true, 10, points).unwrap();
        let threshold = |cost: f64| between(&front, -cost, |point| -point.cost, |point| point.setting);
        assert!((threshold(0.85) - 0.3).abs() < 1e-9);
        assert!((threshold(0.65) - 0.475).abs() < 1e-9);
        assert_eq!((threshold(1.2), threshold(0.3)), (0.2, 0.5), "the ends bound it");
    }

    #[test]
    fn the_grid_ascends_and_is_denser_in_the_middle() {
        let grid = grid();
        assert_eq!((grid[0], grid[GRID / 2], grid[GRID - 1]), (0.000_001, 0.5, 0.999_999));
        assert!(grid.windows(2).all(|w| w[0] < w[1]), "{grid:?}");
        let step = |i: usize| logit(grid[i]) - logit(grid[i - 1]);
        assert!(step(GRID / 2) < 0.4 * step(GRID - 1));
    }
}
