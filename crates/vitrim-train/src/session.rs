//! A training run of a policy, in the folder of a `run`.
//!
//! `policy/` is usable at any time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, Dataset, OnBadImage, Transform};
use vitrim_prune::policy::BackboneId;
use vitrim_prune::{ImageKey, Policy};
use vitrim_ranks::Ranks;
use vitrim_vit::{Backbone, PixelBatch, Precision, Tensors};

use crate::adam::NamedTensor;
use crate::config::{ActorConfig, TrainConfig};
use crate::device::DeviceChoice;
use crate::error::{Result, TrainError};
use crate::run::{self, EpochPosition, Feed, Header, Outcome, Resumable, RunEvent, RunFolder, Shared, Tell};
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
    /// The ranks that share the work.
    pub ranks: &'a Ranks,
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
/// checkpoint if there is one. Returns the policy, which is the same on all ranks.
///
/// # Errors
/// If the configuration does not fit the backbone, an image or file cannot be read or written, or the
/// folder's checkpoint belongs to another run.
pub fn train<B: Backbone>(
    backbone: &B,
    run: &Run<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(RunEvent<'_, UpdateLog>),
) -> Result<(Outcome, Policy)> {
    let trainer = Trainer::new(backbone, run.id.clone(), run.weights, run.config, &run.device.device()?)?;
    let trainer = trainer.among(run.ranks);
    let Source { dataset, transform, workers, on_bad_image } = run.source;
    let feed = Feed {
        dataset,
        transform,
        augment: None,
        seed: run.config.seed,
        batch: run.config.images_per_update,
        workers: *workers,
        on_bad_image: *on_bad_image,
        ranks: run.ranks,
    };
    let mut session = Session { run: *run, feed: &feed, trainer };
    let outcome = run::execute(&mut session, &feed, run.folder, stop, progress)?;
    Ok((outcome, session.trainer.policy()))
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
    /// Places the gate as boldly as `actor.initial_keep` and `actor.initial_loss` allow: the loss is that of sampled
    /// rollouts of `batches`.
    fn search_gate(
        &mut self,
        probes: &[Probe],
        batches: &[Batch],
        stop: &AtomicBool,
        tell: Tell<'_, UpdateLog>,
    ) -> Result<Outcome> {
        let ActorConfig { gate, initial_loss, initial_keep, .. } = self.run.config.actor;
        if gate == 0.0 || initial_loss == 0.0 {
            return Ok(Outcome::Finished);
        }
        let mut steps = 0;
        let keep = boldest(initial_keep, initial_loss, |keep| {
            steps += 1;
            tell(RunEvent::Preparing { what: "placing the gate", done: steps, all: SEARCH_STEPS + 1 });
            self.trainer.place_gate(probes, keep);
            let mut losses = Vec::new();
            for batch in batches {
                losses.extend(self.trainer.sampled_losses(images(batch, &batch.keys()))?);
                if self.run.ranks.any(stop.load(Ordering::Relaxed))? {
                    return Ok(None);
                }
            }
            Ok(Some(100.0 * losses.iter().sum::<f64>() / losses.len().max(1) as f64))
        })?;
        Ok(match keep {
            Some(keep) => {
                self.trainer.place_gate(probes, keep);
                Outcome::Finished
            }
            None => Outcome::Interrupted,
        })
    }
}

/// The smallest share from `least` on at which `loss`, which falls with the share, is at most `allowed`: by bisection up
/// to the mildest share, which is the answer if none is mild enough. `None` if `loss` has no answer.
///
/// # Errors
/// Errors of `loss`.
fn boldest(
    least: f64,
    allowed: f64,
    mut loss: impl FnMut(f64) -> Result<Option<f64>>,
) -> Result<Option<f64>> {
    let (mut too_bold, mut mild) = (least, MILDEST.max(least));
    for step in 0..=SEARCH_STEPS {
        // First the boldest share: if it is mild enough, there is nothing to search.
        let keep = if step == 0 { least } else { 0.5 * (too_bold + mild) };
        match loss(keep)? {
            None => return Ok(None),
            Some(loss) if loss > allowed => too_bold = keep,
            Some(_) if step == 0 => return Ok(Some(keep)),
            Some(_) => mild = keep,
        }
    }
    Ok(Some(mild))
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
        let (mut searched, mut to_search) = (Vec::new(), 0);
        for batch in self.feed.pass(u64::MAX, 0)? {
            let Shared { own: batch, whole } = batch?;
            let keys = batch.keys();
            probes.extend(self.trainer.probe(images(&batch, &keys))?);
            probes.truncate(wanted);
            tell(RunEvent::Preparing { what: "measuring random pruning", done: probes.len(), all: wanted });
            if to_search < SEARCH_IMAGES {
                searched.push(batch);
                to_search += whole;
            }
            if self.run.ranks.any(stop.load(Ordering::Relaxed))? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_is_placed_as_boldly_as_its_loss_allows() {
        let place = |least, allowed| {
            let mut tried = 0;
            let keep = boldest(least, allowed, |keep| {
                tried += 1;
                Ok(Some(100.0 * (1.0 - keep)))
            });
            (keep.unwrap().unwrap(), tried)
        };
        assert_eq!(place(0.6, 45.0), (0.6, 1), "the boldest share is mild enough");
        let (keep, tried) = place(0.6, 20.0);
        assert!((0.8..0.8 + 0.4 / 64.0).contains(&keep) && tried == 7, "{keep} after {tried}");
        assert_eq!(place(0.6, 0.5).0, MILDEST, "none is mild enough");
        assert_eq!(boldest(0.6, 1.0, |_| Ok(None)).unwrap(), None, "interrupted");
    }
}
