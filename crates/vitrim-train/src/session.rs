//! A training run of a policy, in the folder of a `run`.
//!
//! `policy/` is usable at any time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, Dataset, OnBadImage, Transform};
use vitrim_prune::ImageKey;
use vitrim_prune::policy::BackboneId;
use vitrim_vit::{Backbone, PixelBatch, Precision, Tensors};

use crate::adam::NamedTensor;
use crate::config::TrainConfig;
use crate::device::DeviceChoice;
use crate::error::{Result, TrainError};
use crate::run::{self, EpochPosition, Feed, Header, Outcome, Resumable, RunEvent, RunFolder, Tell};
use crate::trainer::{Images, Probe, Trainer, TrainerState, UpdateLog};

/// The images of a run.
#[derive(Clone)]
pub struct Source {
    /// The training images.
    pub dataset: Dataset,
    /// Preprocessing: from an image to pixels.
    pub transform: Transform,
    /// Decoding threads.
    pub workers: usize,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
}

/// One training run: its identity, which must be the same when it is resumed, and its folder.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The backbone's identity.
    pub id: &'a BackboneId,
    /// The precision of its arithmetic.
    pub precision: Precision,
    /// The backbone's weights, which the learner `gumbel` needs.
    pub weights: Option<&'a Tensors>,
    /// The configuration.
    pub config: &'a TrainConfig,
    /// The images.
    pub source: &'a Source,
    /// Device of the training.
    pub device: DeviceChoice,
    /// The run folder.
    pub folder: &'a RunFolder,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    backbone: BackboneId,
    /// Data type of the backbone's arithmetic, by name. Checkpoints without it are of runs in f32.
    #[serde(default = "single")]
    dtype: String,
    config: TrainConfig,
    /// Number of images of the training set, which distinguishes it from most other sets.
    images: usize,
    trainer: TrainerState,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
}

fn single() -> String {
    Precision::F32.to_string()
}

impl Header for Saved {
    fn steps_done(&self) -> usize {
        self.trainer.update
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.backbone != other.backbone {
            Some("backbone")
        } else if self.dtype != other.dtype {
            Some("data type")
        } else if self.config != other.config {
            Some("configuration")
        } else if self.images != other.images {
            Some("training set")
        } else {
            None
        }
    }
}

/// Trains in `run.folder` until `run.config.updates` are done or `stop` is set; continues from the folder's
/// checkpoint if there is one.
///
/// # Errors
/// If the configuration does not fit the backbone, an image or file cannot be read or written, or the
/// folder's checkpoint belongs to another run.
pub fn train<B: Backbone>(
    backbone: &B,
    run: &Run<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(RunEvent<'_, UpdateLog>),
) -> Result<Outcome> {
    let trainer = Trainer::new(backbone, run.id.clone(), run.weights, run.config, &run.device.device()?)?;
    let Source { dataset, transform, workers, on_bad_image } = run.source;
    let feed = Feed {
        dataset,
        transform,
        augment: None,
        seed: run.config.seed,
        batch: run.config.images_per_update,
        workers: *workers,
        on_bad_image: *on_bad_image,
    };
    run::execute(&mut Session { run: *run, feed: &feed, trainer }, &feed, run.folder, stop, progress)
}

/// Number of updates that the run in `folder` has done; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn updates_done(folder: &Path) -> Result<Option<usize>> {
    run::steps_done::<Saved>(folder)
}

/// Images on which the position of the gate is searched.
const SEARCH_IMAGES: usize = 192;

/// Halvings of the search.
const SEARCH_STEPS: usize = 6;

/// The mildest gate: the share of the first stage's agents that tends to stay.
const MILDEST: f64 = 0.99;

/// A trainer and its images.
struct Session<'a, B: Backbone> {
    run: Run<'a>,
    feed: &'a Feed<'a>,
    trainer: Trainer<'a, B>,
}

impl<B: Backbone> Session<'_, B> {
    /// Places the gate where sampled rollouts of `batches` lose at most `actor.initial_loss`, as boldly as
    /// `actor.initial_keep` allows: by bisection, as the loss falls with the share that stays.
    fn search_gate(
        &mut self,
        probes: &[Probe],
        batches: &[Batch],
        stop: &AtomicBool,
        tell: Tell<'_, UpdateLog>,
    ) -> Result<Outcome> {
        let actor = &self.run.config.actor;
        let (allowed, mut too_bold) = (actor.initial_loss, actor.initial_keep);
        if actor.gate == 0.0 || allowed == 0.0 {
            return Ok(Outcome::Finished);
        }
        let mut mild = MILDEST.max(too_bold);
        for step in 0..=SEARCH_STEPS {
            // The boldest place first: there is nothing to search if it is mild enough.
            let keep = if step == 0 { too_bold } else { 0.5 * (too_bold + mild) };
            self.trainer.place_gate(probes, keep);
            let mut losses = Vec::new();
            for batch in batches {
                losses.extend(self.trainer.sampled_losses(images(batch, &batch.keys()))?);
                if stop.load(Ordering::Relaxed) {
                    return Ok(Outcome::Interrupted);
                }
            }
            tell(RunEvent::Preparing { what: "placing the gate", done: step + 1, all: SEARCH_STEPS + 1 });
            let loss = 100.0 * losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            match loss <= allowed {
                true if step == 0 => return Ok(Outcome::Finished),
                true => mild = keep,
                false => too_bold = keep,
            }
        }
        self.trainer.place_gate(probes, mild);
        Ok(Outcome::Finished)
    }
}

impl<B: Backbone> Resumable for Session<'_, B> {
    type Header = Saved;
    type Entry = UpdateLog;
    const TAG: &'static str = "train";

    fn steps(&self) -> usize {
        self.run.config.updates
    }

    fn steps_done(&self) -> usize {
        self.trainer.updates_done()
    }

    fn log_every(&self) -> usize {
        1
    }

    fn header(&self, at: EpochPosition) -> Saved {
        Saved {
            backbone: self.run.id.clone(),
            dtype: self.run.precision.to_string(),
            config: self.run.config.clone(),
            images: self.run.source.dataset.len(),
            trainer: self.trainer.state().0.clone(),
            epoch: at.epoch,
            position: at.done,
        }
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        self.trainer.state().1.save()
    }

    fn restore(&mut self, saved: Saved, tensors: &[NamedTensor]) -> Result<EpochPosition> {
        self.trainer.restore(saved.trainer, tensors)?;
        Ok(EpochPosition { epoch: saved.epoch, done: saved.position })
    }

    /// Runs the probe on the reference images, and searches the position of the gate.
    fn prepare(&mut self, stop: &AtomicBool, tell: Tell<'_, UpdateLog>) -> Result<Outcome> {
        if !self.trainer.needs_probes() {
            return Ok(Outcome::Finished);
        }
        let wanted = self.run.config.reward.reference_images.min(self.run.source.dataset.len());
        let mut probes = Vec::with_capacity(wanted);
        let mut searched: Vec<Batch> = Vec::new();
        for batch in self.feed.pass(u64::MAX, 0)? {
            let batch = batch?;
            let keys = batch.keys();
            probes.extend(self.trainer.probe(images(&batch, &keys))?);
            probes.truncate(wanted);
            tell(RunEvent::Preparing { what: "measuring random pruning", done: probes.len(), all: wanted });
            if searched.iter().map(Batch::len).sum::<usize>() < SEARCH_IMAGES {
                searched.push(batch);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            if probes.len() == wanted {
                break;
            }
        }
        if probes.is_empty() {
            return Err(TrainError::NoImages);
        }
        self.trainer.begin(&probes);
        self.search_gate(&probes, &searched, stop, tell)
    }

    fn step(&mut self, batch: &Batch, _since: Instant) -> Result<Option<UpdateLog>> {
        let keys = batch.keys();
        self.trainer.update(images(batch, &keys)).map(Some)
    }

    fn is_due(&self, _: &UpdateLog) -> bool {
        let done = self.steps_done();
        done.is_multiple_of(self.run.config.checkpoint_every) || done == self.steps()
    }

    fn publish(&mut self, folder: &Path) -> Result<()> {
        Ok(self.trainer.policy().save(&folder.join("policy"))?)
    }
}

fn images<'a>(batch: &'a Batch, keys: &'a [ImageKey]) -> Images<'a> {
    Images { pixels: PixelBatch::new(&batch.pixels, batch.len()), labels: &batch.labels, keys }
}
