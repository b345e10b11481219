//! Trains a backbone from scratch: AdamW on cross-entropy, with the cosine schedule and the augmentations of ViT
//! training (DeiT: Touvron et al., 2021). The result has timm's Hub layout.
//!
//! A run folder holds `model/` (the best weights so far by held-out accuracy), besides the files of `run`.

mod config;
pub(crate) mod learner;
mod samples;
pub(crate) mod step;
pub(crate) mod weights;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, BatchShare, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};
use vitrim_ranks::Ranks;
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Tensors, Want};

pub use config::{AugmentConfig, ModelConfig, PretrainConfig};
pub use weights::{WeightType, initial_weights, save_as, save_backbone};

use crate::adam::NamedTensor;
use crate::device::DeviceChoice;
use crate::division::{Division, IMAGES};
use crate::error::{Result, TrainError};
use crate::run::{self, EpochPosition, Feed, Header, Outcome, Resumable, RunEvent, RunFolder};
use learner::BackboneLearner;
use samples::samples;
use step::descend;

/// Images per batch of the evaluation.
const EVALUATION_BATCH: usize = 64;

/// One pre-training run.
#[derive(Clone, Copy)]
pub struct Pretraining<'a> {
    /// The configuration.
    pub config: &'a PretrainConfig,
    /// Labelled training images.
    pub train: &'a Dataset,
    /// Labelled images that are never trained on.
    pub held_out: &'a Dataset,
    /// Preprocessing: from an image to pixels.
    pub transform: &'a Transform,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// Weights to start from instead of random ones.
    pub init: Option<&'a Tensors>,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
    /// Device of the training.
    pub device: DeviceChoice,
    /// The ranks that share the work. Each decodes all images, since those of a batch are mixed.
    pub ranks: &'a Ranks,
    /// Type of the weights in `model/`.
    pub weight_type: WeightType,
    /// The run folder.
    pub folder: &'a RunFolder,
}

/// The metrics of `log_every` steps, as means.
#[derive(Clone, Debug, Serialize)]
pub struct PretrainLog {
    /// Steps done.
    pub step: usize,
    /// Images trained on.
    pub images: usize,
    /// Images/s.
    pub images_per_s: f64,
    /// Cross-entropy against the smoothed, mixed targets, plus that of the patch tokens, nats.
    pub loss: f64,
    /// Top-1 on augmented training images with patches left out, percent.
    pub train_top1: f64,
    /// Top-1 on the held-out images, percent, if it was measured.
    pub held_out_top1: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    config: PretrainConfig,
    classes: usize,
    images: usize,
    /// [`Tensors::fingerprint`] of the initial weights, if they were given.
    #[serde(default)]
    init: Option<String>,
    at: Standing,
}

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    step: usize,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
    /// Best held-out top-1, percent.
    best: f64,
}

impl Header for Saved {
    fn steps_done(&self) -> usize {
        self.at.step
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.config != other.config {
            Some("configuration")
        } else if self.init != other.init {
            Some("start")
        } else if (self.images, self.classes) != (other.images, other.classes) {
            Some("training set")
        } else {
            None
        }
    }
}

/// Trains in `run.folder` until all images are done or `stop` is set; continues from the folder's checkpoint if there
/// is one. Returns the best held-out top-1, percent, and how the run ended.
///
/// # Errors
/// If the configuration is invalid, an image or file cannot be read or written, a label is missing, or the folder's
/// checkpoint belongs to another run.
pub fn pretrain(
    run: &Pretraining<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&PretrainLog, usize),
) -> Result<(Outcome, f64)> {
    run.config.check().map_err(TrainError::Config)?;
    let classes = run.train.class_names().len();
    if classes < 2 || !run.train.is_labelled() {
        return Err(TrainError::Config("pre-training needs labelled images of at least two classes".into()));
    }
    let feed = Feed {
        dataset: run.train,
        transform: run.transform,
        augment: Some(run.config.augmentation()),
        seed: run.config.seed,
        batch: run.config.batch,
        workers: run.workers,
        on_bad_image: run.on_bad_image,
        share: BatchShare::ALL,
        ranks: run.ranks,
    };
    let device = run.device.device()?;
    let learner = learner(run, classes, &device)?;
    let half = run.config.bf16 && run.device == DeviceChoice::Gpu && device.supports_dtype(FloatDType::BF16);
    let mut training = Training {
        run: *run,
        division: Division::new(run.config.batch, IMAGES, &device, run.ranks),
        init: run.init.map(|tensors| tensors.fingerprint(&learner.spec)).transpose()?,
        learner,
        device,
        dtype: if half { FloatDType::BF16 } else { FloatDType::F32 },
        step: 0,
        best: 0.0,
        improved: false,
        sums: Sums::default(),
    };
    let outcome = run::execute(&mut training, &[feed], run.folder, stop, &mut |event| {
        if let RunEvent::Entry(entry, steps) = event {
            progress(entry, steps);
        }
    })?;
    Ok((outcome, training.best))
}

/// Steps that the run in `folder` has saved; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn steps_done(folder: &Path) -> Result<Option<usize>> {
    run::steps_done::<Saved>(folder)
}

/// A run in memory.
struct Training<'a> {
    run: Pretraining<'a>,
    /// Fingerprint of the initial weights, if they were given.
    init: Option<String>,
    learner: BackboneLearner,
    division: Division,
    device: Device,
    /// Data type of the blocks.
    dtype: FloatDType,
    step: usize,
    /// Best held-out top-1, percent.
    best: f64,
    /// Whether the current weights are the best so far and not yet in `model/`.
    improved: bool,
    sums: Sums,
}

/// Sums over the steps since the last log entry.
#[derive(Default)]
struct Sums {
    steps: usize,
    images: usize,
    loss: f64,
    right: usize,
    grad_norm: f64,
}

impl Resumable for Training<'_> {
    type Header = Saved;
    type Entry = PretrainLog;
    const TAG: &'static str = "pretrain";

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
            classes: self.learner.spec.num_classes,
            images: self.run.train.len(),
            init: self.init.clone(),
            at: Standing { step: self.step, epoch: at.epoch, position: at.done, best: self.best },
        }
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        self.learner.named()
    }

    fn restore(&mut self, saved: Saved, tensors: &[NamedTensor]) -> Result<Vec<EpochPosition>> {
        self.learner.restore(tensors, &self.device)?;
        (self.step, self.best) = (saved.at.step, saved.at.best);
        Ok(vec![EpochPosition { epoch: saved.at.epoch, done: saved.at.position }])
    }

    fn step(&mut self, batch: &Batch, since: Instant) -> Result<Option<PretrainLog>> {
        let config = self.run.config;
        let samples = samples(batch, &self.run, self.step, &self.learner.spec)?;
        let device = self.device.clone().autodiff();
        let descent = descend(&self.learner.student, &samples, &self.division, self.dtype, &device)?;
        let learning_rate = config.learning_rate_at(self.step);
        let grad_norm = self.learner.step(descent.gradients, learning_rate, config.max_grad_norm);
        self.step += 1;
        self.sums.steps += 1;
        self.sums.images += batch.len();
        self.sums.loss += descent.loss;
        self.sums.right += descent.right;
        self.sums.grad_norm += grad_norm;
        let last = self.step == config.steps();
        if !self.step.is_multiple_of(config.log_every) && !last {
            return Ok(None);
        }
        let seconds = since.elapsed().as_secs_f64();
        // The first rank, which writes, is the one that has to know.
        let due = (last || self.step.is_multiple_of(config.log_every * config.evaluate_every))
            && self.run.ranks.is_first();
        let held_out_top1 = due.then(|| self.run.evaluate(&self.learner)).transpose()?;
        if let Some(top1) = held_out_top1 {
            self.improved = top1 >= self.best;
            if self.improved {
                self.best = top1;
            }
        }
        let Sums { steps, images, loss, right, grad_norm } = std::mem::take(&mut self.sums);
        Ok(Some(PretrainLog {
            step: self.step,
            images: (self.step * config.batch).min(config.images),
            images_per_s: images as f64 / seconds,
            loss: loss / steps as f64,
            train_top1: 100.0 * right as f64 / images as f64,
            held_out_top1,
            learning_rate,
            grad_norm: grad_norm / steps as f64,
        }))
    }

    fn is_due(&self, entry: &PretrainLog) -> bool {
        entry.held_out_top1.is_some()
    }

    fn publish(&mut self, folder: &Path) -> Result<()> {
        if !std::mem::take(&mut self.improved) {
            return Ok(());
        }
        let Pretraining { transform, train, weight_type, .. } = self.run;
        let tensors = self.learner.student.vit.tensors();
        let (preprocess, names) = (transform.preprocess(), train.class_names());
        save_backbone(&folder.join("model"), &self.learner.spec, &tensors, preprocess, names, weight_type)
    }
}

impl Pretraining<'_> {
    /// Top-1 on the held-out images, percent, with the CPU executor, which is faster than Burn.
    fn evaluate(&self, learner: &BackboneLearner) -> Result<f64> {
        match self.device {
            DeviceChoice::Cpu => self.top1(&CpuBackbone::new(&learner.spec, &learner.student.vit.tensors())?),
            DeviceChoice::Gpu => self.top1(&learner.student.vit),
        }
    }

    fn top1<B: Backbone>(&self, backbone: &B) -> Result<f64> {
        let options = LoaderOptions {
            batch: EVALUATION_BATCH,
            workers: self.workers,
            skip: 0,
            limit: Some(self.config.held_out_images),
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: None,
            share: BatchShare::ALL,
        };
        let (mut right, mut images) = (0, 0usize);
        for batch in Loader::new(self.held_out, Order::Sequential, self.transform, options)? {
            let batch = batch?;
            let mut state = backbone.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
            backbone.advance_to_answer(&mut state)?;
            let found = backbone.finish(&state, Want::Logits)?.argmax();
            right +=
                found.iter().zip(&batch.labels).filter(|(f, l)| l.is_some_and(|l| l as usize == **f)).count();
            images += batch.len();
        }
        Ok(100.0 * right as f64 / images.max(1) as f64)
    }
}

/// The learner of `run`, whose data set has `classes` classes.
fn learner(run: &Pretraining<'_>, classes: usize, device: &Device) -> Result<BackboneLearner> {
    let config = run.config;
    let spec = config.spec(classes)?;
    let drawn = run.init.is_none().then(|| initial_weights(&spec, config.seed));
    let tensors = run.init.or(drawn.as_ref()).expect("given or drawn");
    let token_head = (run.train.knows_objects() && config.token_labels > 0.0)
        .then(|| (vec![0.0; (classes + 1) * spec.dim], vec![0.0; classes + 1]));
    BackboneLearner::with(spec, tensors, token_head, config.weight_decay, device)
}
