//! What stands between a data set and a training run: which images it may see, and where it is kept.

use std::path::{Path, PathBuf};

use vitrim_data::Dataset;
use vitrim_measure::error::MeasureError;
use vitrim_measure::images::{DataParts, OnProgress};
use vitrim_measure::model::{Loaded, open_checkpoint};
use vitrim_train::config::LearnerKind;
use vitrim_train::finetune::{FinetuneLog, HeldOut};
use vitrim_train::{RunFolder, TrainConfig, UpdateLog, updates_done};
use vitrim_vit::Tensors;

use crate::error::{Result, VitrimError};
use crate::overlay;

/// Which parts of a data set a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Splits<'a> {
    /// What to train on, as [`DataParts::named`] has it.
    pub train: &'a str,
    /// What to calibrate on; `None` if the policy shall stay uncalibrated.
    pub calibration: Option<&'a str>,
}

/// The images of a run.
pub struct RunImages {
    /// What to train on.
    pub train: Dataset,
    /// Images left out of training because calibration or test has them, too.
    pub removed: usize,
    /// What to calibrate on; `None` if the policy shall stay uncalibrated.
    pub calibration: Option<Dataset>,
}

impl RunImages {
    /// Opens them, and leaves out of training what calibration or test also has.
    ///
    /// # Errors
    /// If they cannot be read, have other classes than the backbone, or none is left to train on.
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

    /// How many there are, in one line; calibration takes `most` images at most.
    pub fn describe(&self, most: usize) -> String {
        self.counts(most, "to calibrate on")
    }

    /// The same of a run that only judges itself by them, by `most` at most.
    pub fn describe_held_out(&self, most: usize) -> String {
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

/// The weights of the checkpoint that `loaded` is of, if a run of `config` needs them.
///
/// # Errors
/// As [`open_checkpoint`].
pub fn weights(loaded: &Loaded, config: &TrainConfig) -> Result<Option<Tensors>> {
    let needed = config.learner == LearnerKind::Gumbel;
    let open = || Ok(open_checkpoint(Path::new(&loaded.origin), Some(loaded.spec.img_size))?.tensors);
    needed.then(open).transpose()
}

/// `runs/` and the model's name, and the preset's unless it is the default.
pub fn default_out(model: &Path, preset: &str) -> PathBuf {
    let absolute = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let suffix = if preset == "default" { String::new() } else { format!("-{preset}") };
    Path::new("runs").join(format!("{name}{suffix}"))
}

/// Writes down the configuration of a new run in `folder`; says in one line whether it is new or goes on.
///
/// # Errors
/// If the folder has a damaged checkpoint, or a file cannot be written.
pub fn open_run(folder: &RunFolder, config: &TrainConfig) -> Result<String> {
    let shown = folder.path().display();
    match updates_done(folder.path())? {
        None => {
            let toml = overlay::to_toml(config).map_err(|error| VitrimError::Setting(error.to_string()))?;
            vitrim_durable::replace(&folder.path().join("config.toml"), toml.as_bytes())?;
            Ok(format!("training in {shown}"))
        }
        Some(done) if done >= config.updates => {
            Ok(format!("{shown} has all {done} updates; only calibrating"))
        }
        Some(done) => Ok(format!("going on in {shown} from update {done} of {}", config.updates)),
    }
}

/// Writes `config` (TOML) into the `folder` of a new run of `steps`; says in one line from which of them an old one
/// goes on, of which `done` are.
///
/// # Errors
/// If it cannot be written.
pub fn open_run_of_steps(
    folder: &RunFolder,
    config: &str,
    done: Option<usize>,
    steps: usize,
) -> Result<Option<String>> {
    if let Some(done) = done {
        return Ok(Some(format!("going on in {} from step {done} of {steps}", folder.path().display())));
    }
    vitrim_durable::replace(&folder.path().join("config.toml"), config.as_bytes())?;
    Ok(None)
}

/// What an interrupted run of `updates` in `out` has saved, in one line without a cure.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn saved(out: &Path, updates: usize) -> Result<String> {
    Ok(updates_done(out)?.map_or("nothing was saved yet".to_owned(), |done| {
        format!("update {done} of {updates} is saved in {}", out.display())
    }))
}

/// An update's figures, in one line.
pub fn describe(log: &UpdateLog) -> String {
    let keep: Vec<String> = log.keep_ratio.iter().map(|k| format!("{k:.2}")).collect();
    // The paper's game follows no target: its drop is this update's own.
    let (name, unit) = if log.drifts { ("drift", "%") } else { ("drop", "pp") };
    let drop = match (log.estimated_accuracy_loss, log.beta) {
        (Some(drop), Some(beta)) => format!("{name} {drop:.2} {unit}, beta {beta:.2}"),
        _ => format!("sampled {name} {:.2} {unit}", log.sampled_accuracy_loss),
    };
    let ppo = log.ppo.map(|ppo| format!(", KL {:.4}, entropy {:.3}", ppo.approx_kl, ppo.entropy));
    format!(
        "{:.1} images/s, keep {}, cost {:.3}, {drop}{}",
        log.images_per_s,
        keep.join(" "),
        log.cost,
        ppo.unwrap_or_default(),
    )
}

/// A fine-tuning step's figures, in one line; `last` are the held-out ones that were measured last.
pub fn describe_finetuning(log: &FinetuneLog, last: Option<HeldOut>) -> String {
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
