//! Fine-tuning: with the tokens that a frozen policy keeps, the backbone learns to give the answers of the dense
//! model (the second stage of arXiv 2503.23459, with distillation after Hinton et al., 2015) and its pooled features
//! (after FitNets: Romero et al., 2015).
//!
//! Tokens are removed during training as in inference; each evaluation checks that both passes agree. Without a
//! policy, the dense model is trained in the same way, as a control.
//!
//! A run folder holds `model/` (the best weights so far by held-out fidelity, in the layout of the initial
//! checkpoint) and `policy/` (the policy, for these weights), besides the files of `run`.

mod config;
mod descent;
mod evaluation;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vitrim_data::{Augment, Batch, Dataset, OnBadImage, Transform};
use vitrim_prune::policy::BackboneId;
use vitrim_prune::{ImageKey, LearnedPruner, NoPruner, Policy, Pruner};
use vitrim_ranks::Ranks;
use vitrim_vit::{Checkpoint, CpuBackbone, Tensors};

pub use config::FinetuneConfig;
pub use evaluation::HeldOut;

use crate::adam::NamedTensor;
use crate::burn_vit::{BurnVit, PrunedOutput};
use crate::device::DeviceChoice;
use crate::division::{Division, IMAGES};
use crate::error::{Result, TrainError};
use crate::pretrain::learner::BackboneLearner;
use crate::pretrain::weights::save_as;
use crate::pretrain::{AugmentConfig, WeightType};
use crate::run::{self, EpochPosition, Feed, Header, Outcome, Resumable, RunEvent, RunFolder};
use descent::{Dense, Samples, descend};

/// One fine-tuning run.
#[derive(Clone, Copy)]
pub struct Finetuning<'a> {
    /// The configuration.
    pub config: &'a FinetuneConfig,
    /// The initial weights, which are also the teacher's; the result keeps this checkpoint's layout.
    pub checkpoint: &'a Checkpoint,
    /// The frozen policy, with its own read-out; `None` for the dense control.
    pub policy: Option<&'a Policy>,
    /// Training images.
    pub train: &'a Dataset,
    /// Images that are never trained on.
    pub held_out: &'a Dataset,
    /// Preprocessing: from an image to pixels.
    pub transform: &'a Transform,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
    /// Device of the training.
    pub device: DeviceChoice,
    /// The ranks that share the work.
    pub ranks: &'a Ranks,
    /// Type of the weights in `model/`.
    pub weight_type: WeightType,
    /// The run folder.
    pub folder: &'a RunFolder,
}

/// The metrics of `log_every` steps, as means.
#[derive(Clone, Debug, Serialize)]
pub struct FinetuneLog {
    /// Steps done.
    pub step: usize,
    /// Images trained on.
    pub images: usize,
    /// Images/s.
    pub images_per_s: f64,
    /// Weighted sum of D to the teacher's answers, the distance to its features and the labels' cross-entropy.
    pub loss: f64,
    /// Figures on held-out images, if they were measured.
    #[serde(flatten)]
    pub held_out: Option<HeldOut>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    config: FinetuneConfig,
    /// Fingerprint of the initial weights.
    start: String,
    /// Hash of the policy's weights and read-out; `None` for the dense control.
    policy: Option<String>,
    images: usize,
    at: Standing,
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Standing {
    step: usize,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
    /// Held-out figures of the best weights so far; `None` before the first evaluation.
    best: Option<HeldOut>,
}

impl Header for Saved {
    fn steps_done(&self) -> usize {
        self.at.step
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.config != other.config {
            Some("configuration")
        } else if self.start != other.start {
            Some("backbone")
        } else if self.policy != other.policy {
            Some("policy")
        } else if self.images != other.images {
            Some("training set")
        } else {
            None
        }
    }
}

/// Fine-tunes in `run.folder` until all images are done or `stop` is set; continues from the folder's checkpoint if
/// there is one. Returns the held-out figures of the best weights, and how the run ended.
///
/// # Errors
/// If the configuration is invalid, an image or file cannot be read or written, the two passes disagree, or the
/// folder's checkpoint belongs to another run.
pub fn finetune(
    run: &Finetuning<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&FinetuneLog, usize),
) -> Result<(Outcome, Option<HeldOut>)> {
    let Finetuning { config, checkpoint, .. } = *run;
    config.check().map_err(TrainError::Config)?;
    let Checkpoint { spec, tensors, .. } = checkpoint;
    if spec.num_classes == 0 && config.label_weight > 0.0 {
        return Err(TrainError::Config("label_weight must be 0: the backbone has no classes".into()));
    }
    let device = run.device.device()?;
    let division = Division::new(config.batch, IMAGES, &device, run.ranks);
    let AugmentConfig { crop_padding, flip, color_jitter } = config.augment;
    let feed = Feed {
        dataset: run.train,
        transform: run.transform,
        augment: Some(Augment { crop_padding, flip, color_jitter, seed: config.seed }),
        seed: config.seed,
        batch: config.batch,
        workers: run.workers,
        on_bad_image: run.on_bad_image,
        share: division.own(),
        ranks: run.ranks,
    };
    let mut tuning = Tuning {
        run: *run,
        teacher: CpuBackbone::new(spec, tensors)?,
        learner: BackboneLearner::with(spec.clone(), tensors, None, config.weight_decay, &device)?,
        division,
        start: tensors.fingerprint(spec)?,
        step: 0,
        best: None,
        improved: false,
        sums: Sums::default(),
    };
    let outcome = run::execute(&mut tuning, &[feed], run.folder, stop, &mut |event| {
        if let RunEvent::Entry(entry, steps) = event {
            progress(entry, steps);
        }
    })?;
    Ok((outcome, tuning.best))
}

/// Steps that the run in `folder` has saved; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn steps_done(folder: &Path) -> Result<Option<usize>> {
    run::steps_done::<Saved>(folder)
}

/// A run in memory.
struct Tuning<'a> {
    run: Finetuning<'a>,
    teacher: CpuBackbone,
    learner: BackboneLearner,
    division: Division,
    /// Fingerprint of the teacher's weights.
    start: String,
    step: usize,
    best: Option<HeldOut>,
    /// Whether the current weights are the best so far and not yet in `model/`.
    improved: bool,
    sums: Sums,
}

/// Sums over the steps since the last log entry.
#[derive(Default)]
struct Sums {
    steps: usize,
    loss: f64,
    grad_norm: f64,
}

impl Resumable for Tuning<'_> {
    type Header = Saved;
    type Entry = FinetuneLog;
    const TAG: &'static str = "finetune";

    fn steps(&self) -> usize {
        self.run.config.steps()
    }

    fn steps_done(&self) -> usize {
        self.step
    }

    fn log_every(&self) -> usize {
        self.run.config.log_every
    }

    fn header(&self, at: &[EpochPosition]) -> Saved {
        let at = at[0];
        Saved {
            config: self.run.config.clone(),
            start: self.start.clone(),
            policy: self.run.policy.map(Policy::identity),
            images: self.run.train.len(),
            at: Standing { step: self.step, epoch: at.epoch, position: at.done, best: self.best },
        }
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        self.learner.named()
    }

    fn restore(&mut self, saved: Saved, tensors: &[NamedTensor]) -> Result<Vec<EpochPosition>> {
        self.learner.restore(tensors, &self.run.device.device()?)?;
        (self.step, self.best) = (saved.at.step, saved.at.best);
        Ok(vec![EpochPosition { epoch: saved.at.epoch, done: saved.at.position }])
    }

    fn step(&mut self, batch: &Batch, since: Instant) -> Result<Option<FinetuneLog>> {
        let config = self.run.config;
        let samples = Samples {
            pixels: &batch.pixels,
            keys: batch.keys(),
            labels: &batch.labels,
            teacher: Dense::of(&self.teacher, batch)?,
            place: self.division.place(batch.len())?,
        };
        let (gradients, loss) = descend(&self.run, &self.learner.student.vit, &samples, &self.division)?;
        let learning_rate = config.learning_rate_at(self.step);
        let grad_norm = self.learner.step(gradients, learning_rate, config.max_grad_norm);
        self.step += 1;
        self.sums.steps += 1;
        self.sums.loss += loss;
        self.sums.grad_norm += grad_norm;
        let last = self.step == config.steps();
        if !self.step.is_multiple_of(config.log_every) && !last {
            return Ok(None);
        }
        let seconds = since.elapsed().as_secs_f64();
        // The first rank, which writes, is the one that has to know.
        let due = (last || self.step.is_multiple_of(config.log_every * config.evaluate_every))
            && self.run.ranks.is_first();
        let held_out = due.then(|| self.run.evaluate(&self.learner, &self.teacher)).transpose()?;
        if let Some(held_out) = held_out {
            self.improved = self.best.is_none_or(|best| held_out.divergence <= best.divergence);
            if self.improved {
                self.best = Some(held_out);
            }
        }
        let Sums { steps, loss, grad_norm } = std::mem::take(&mut self.sums);
        Ok(Some(FinetuneLog {
            step: self.step,
            images: (self.step * config.batch).min(config.images),
            images_per_s: (steps * config.batch) as f64 / seconds,
            loss: loss / steps as f64,
            held_out,
            learning_rate,
            grad_norm: grad_norm / steps as f64,
        }))
    }

    fn is_due(&self, entry: &FinetuneLog) -> bool {
        entry.held_out.is_some()
    }

    fn publish(&mut self, folder: &Path) -> Result<()> {
        if std::mem::take(&mut self.improved) {
            self.run.save(folder, &self.learner.student.vit.tensors())?;
        }
        Ok(())
    }
}

impl Finetuning<'_> {
    fn pruner(&self) -> Box<dyn Pruner> {
        match self.policy {
            Some(policy) => Box::new(LearnedPruner::new(&self.checkpoint.spec, policy)),
            None => Box::new(NoPruner),
        }
    }

    fn forward(&self, vit: &BurnVit, pixels: &[f32], keys: &[ImageKey]) -> Result<PrunedOutput> {
        vit.forward_pruned(pixels, keys, self.pruner().as_ref())
    }

    /// Writes `model/` and, with a policy, `policy/` for it.
    fn save(&self, folder: &Path, tensors: &Tensors) -> Result<()> {
        let model = folder.join("model");
        save_as(&model, self.checkpoint, tensors, self.weight_type)?;
        let Some(policy) = self.policy else { return Ok(()) };
        let stored = Checkpoint::open(&model)?;
        // The calibration record belongs to other weights.
        let backbone = BackboneId::of(&self.checkpoint.spec, &stored.tensors)?;
        let policy = Policy { backbone, calibration: None, ..policy.clone() };
        Ok(policy.save(&folder.join("policy"))?)
    }
}
