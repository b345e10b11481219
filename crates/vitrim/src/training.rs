//! Opens a training run: the images that it may see, and its folder.

use std::path::{Path, PathBuf};

use vitrim_data::Dataset;
use vitrim_kernels::InstructionSet;
use vitrim_measure::error::MeasureError;
use vitrim_measure::images::{DataParts, OnProgress};
use vitrim_measure::model::{Loaded, open_checkpoint};
use vitrim_ranks::Ranks;
use vitrim_train::config::LearnerKind;
use vitrim_train::finetune::{FinetuneLog, HeldOut};
use vitrim_train::metric::MetricLog;
use vitrim_train::{RunFolder, TrainConfig, UpdateLog, updates_done};
use vitrim_vit::Tensors;

use crate::error::Result;
use crate::overlay;

/// The parts of a data set for a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Splits<'a> {
    /// The part to train on, see [`DataParts::named`].
    pub train: &'a str,
    /// The part to calibrate on; `None` if the policy is left uncalibrated.
    pub calibration: Option<&'a str>,
}

/// The images of a run.
pub(crate) struct RunImages {
    /// The images to train on.
    pub train: Dataset,
    /// Number of images removed from training because calibration or test also has them.
    pub removed: usize,
    /// The images to calibrate on; `None` if the policy is left uncalibrated.
    pub calibration: Option<Dataset>,
}

impl RunImages {
    /// Opens the images, and removes from training those that calibration or test also has.
    ///
    /// # Errors
    /// If they cannot be read, have other classes than the backbone, or no training image is left.
    pub fn open(
        loaded: &Loaded,
        parts: &DataParts,
        splits: Splits<'_>,
        progress: OnProgress<'_>,
    ) -> Result<Self> {
        let all = parts.named(splits.train, progress)?;
        loaded.check_classes(&parts.path(), &all)?;
        let calibration = splits.calibration.map(|split| parts.named(split, progress)).transpose()?;
        if let Some(calibration) = &calibration {
            loaded.check_classes(&parts.path(), calibration)?;
        }
        let held_out = parts.held_out(calibration.as_ref(), progress)?;
        let (train, removed) = all.without(&held_out, progress)?;
        if train.is_empty() {
            let reason =
                "no image left to train on: all of them are held out; name another --split".to_owned();
            return Err(MeasureError::Part { data: parts.path(), reason }.into());
        }
        Ok(RunImages { train, removed, calibration })
    }

    /// The numbers of images, in one line; calibration uses at most `most` images.
    pub(crate) fn describe(&self, most: usize) -> String {
        self.counts(most, "to calibrate on")
    }

    /// The numbers of images of a run that evaluates itself on held-out images, at most `most`, in one line.
    pub(crate) fn describe_held_out(&self, most: usize) -> String {
        self.counts(most, "held out")
    }

    fn counts(&self, most: usize, what_for: &str) -> String {
        let count = self.calibration.as_ref().map_or(0, Dataset::len).min(most);
        format!(
            "{} images to train on ({} left out, which calibration or test also has), {count} {what_for}",
            self.train.len(),
            self.removed
        )
    }
}

/// A name and a value, which must be the same on all ranks.
pub type Fact = (&'static str, String);

/// What must be the same on all ranks of a run: its images, and its configuration as TOML.
pub fn facts_of_run(train: &Dataset, held_out: Option<&Dataset>, toml: &str) -> Vec<Fact> {
    let mut facts = vec![
        ("number of images to train on", train.len().to_string()),
        ("number of held-out images", held_out.map_or(0, Dataset::len).to_string()),
    ];
    facts.extend(toml.lines().map(|line| ("configuration", format!("`{line}`"))));
    facts
}

/// What must be the same on all ranks that run a backbone.
pub fn facts_of_backbone(loaded: &Loaded) -> Vec<Fact> {
    let mut facts = facts_of_program();
    facts.extend([
        ("backbone", loaded.id.fingerprint.clone()),
        ("data type", loaded.model.weights().precision().to_string()),
    ]);
    facts
}

/// What must be the same on all ranks.
pub fn facts_of_program() -> Vec<Fact> {
    vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("set of instructions", InstructionSet::current().to_string()),
    ]
}

/// What to do if ranks differ.
pub const ALIKE: &str =
    "start the same vitrim with the same command on all, and set VITRIM_SIMD=avx2 if their processors differ";

/// The weights of the checkpoint of `loaded`, if a run of `config` needs them.
///
/// # Errors
/// As [`tensors_of`].
pub(crate) fn weights(loaded: &Loaded, config: &TrainConfig) -> Result<Option<Tensors>> {
    let needed = config.learner == LearnerKind::Gumbel;
    needed.then(|| tensors_of(loaded)).transpose()
}

/// The weights of the checkpoint of `loaded`.
///
/// # Errors
/// As [`open_checkpoint`].
pub(crate) fn tensors_of(loaded: &Loaded) -> Result<Tensors> {
    let checkpoint = open_checkpoint(Path::new(&loaded.origin), Some(loaded.spec.img_size))?;
    Ok(match &loaded.text_classes {
        Some(classes) => checkpoint.with_classes(classes).map_err(MeasureError::from)?.tensors,
        None => checkpoint.tensors,
    })
}

/// The name of the checkpoint folder `model`.
pub(crate) fn name_of(model: &Path) -> String {
    let absolute = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    absolute.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folder `runs/`, with the model's name and, unless it is the default, the preset's.
pub(crate) fn default_out(model: &Path, preset: &str) -> PathBuf {
    let name = name_of(model);
    let suffix = if preset == "default" { String::new() } else { format!("-{preset}") };
    Path::new("runs").join(format!("{name}{suffix}"))
}

/// Writes the configuration of a new run to `folder`; returns a line that says whether the run is new or continues.
///
/// # Errors
/// If the folder has a damaged checkpoint, or a file cannot be written.
pub fn open_run(folder: &RunFolder, config: &TrainConfig) -> Result<String> {
    let shown = folder.path().display();
    match updates_done(folder.path())? {
        None => {
            let toml = overlay::to_toml(config)?;
            vitrim_durable::replace(&folder.path().join("config.toml"), toml.as_bytes())?;
            Ok(format!("training in {shown}"))
        }
        Some(done) if done >= config.updates => {
            Ok(format!("{shown} has all {done} updates; only calibrating"))
        }
        Some(done) => Ok(format!("going on in {shown} from update {done} of {}", config.updates)),
    }
}

/// On the first of `ranks`, writes `config` (TOML) to the `folder` of a new run of `steps`; returns a line that says from
/// which step a run continues, as `steps_done` finds it.
///
/// # Errors
/// If the folder has a damaged checkpoint, or it cannot be written.
pub fn open_run_of_steps(
    folder: &RunFolder,
    config: &str,
    steps: usize,
    steps_done: impl Fn(&Path) -> vitrim_train::Result<Option<usize>>,
    ranks: &Ranks,
) -> Result<Option<String>> {
    if !ranks.is_first() {
        return Ok(None);
    }
    if let Some(done) = steps_done(folder.path())? {
        return Ok(Some(format!("going on in {} from step {done} of {steps}", folder.path().display())));
    }
    vitrim_durable::replace(&folder.path().join("config.toml"), config.as_bytes())?;
    Ok(None)
}

/// A line that says what an interrupted run of `updates` in `out` has saved, without advice.
///
/// # Errors
/// If its checkpoint is damaged.
pub(crate) fn saved(out: &Path, updates: usize) -> Result<String> {
    Ok(updates_done(out)?.map_or("nothing was saved yet".to_owned(), |done| {
        format!("update {done} of {updates} is saved in {}", out.display())
    }))
}

/// An update's figures, in one line.
pub(crate) fn describe(log: &UpdateLog) -> String {
    let keep: Vec<String> = log.keep_ratio.iter().map(|k| format!("{k:.2}")).collect();
    // The paper's game has no target: its drop is that of this update.
    let (name, unit) = if log.drifts { ("drift", "%") } else { ("drop", "pp") };
    let drop = match (log.estimated_accuracy_loss, log.beta) {
        (Some(drop), Some(beta)) => format!("{name} {drop:.2} {unit}, beta {beta:.2}"),
        _ => format!("sampled {name} {:.2} {unit}", log.sampled_accuracy_loss),
    };
    let ppo = log.ppo.map(|ppo| format!(", KL {:.4}, entropy {:.3}", ppo.approx_kl, ppo.entropy));
    let backbone = log.backbone.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    format!(
        "{backbone}{:.1} images/s, {:.1} dense passes an image, keep {}, cost {:.3}, {drop}{}",
        log.images_per_s,
        log.dense_passes,
        keep.join(" "),
        log.cost,
        ppo.unwrap_or_default(),
    )
}

/// The figures of a metric's step, in one line.
pub(crate) fn describe_metric(log: &MetricLog) -> String {
    let MetricLog { images_per_s, divergence, removed, .. } = log;
    format!("{images_per_s:.1} images/s, D {divergence:.4} with {removed:.1} tokens merged in each block")
}

/// A fine-tuning step's figures, in one line; `last` are the latest held-out figures.
pub(crate) fn describe_finetuning(log: &FinetuneLog, last: Option<HeldOut>) -> String {
    let held_out = last.map_or_else(
        || "?".to_owned(),
        |HeldOut { top1, teacher_top1, divergence, cost, .. }| {
            let top1 = top1
                .zip(teacher_top1)
                .map(|(now, before)| format!("{now:.2} % (dense before: {before:.2} %), "));
            format!("{}D {divergence:.4} at cost {cost:.3}", top1.unwrap_or_default())
        },
    );
    format!("{:.0} images/s, loss {:.4}, held out {held_out}", log.images_per_s, log.loss)
}
