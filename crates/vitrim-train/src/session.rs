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
use crate::trainer::{Images, Probe, Start, Trainer, TrainerState, UpdateLog};

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

/// A backbone of a run, and the images on which it is pruned.
pub struct Ground<'a, B> {
    /// The backbone.
    pub backbone: &'a B,
    /// Its identity.
    pub id: &'a BackboneId,
    /// What it is called in the log.
    pub name: &'a str,
    /// The precision of its arithmetic.
    pub precision: Precision,
    /// The images.
    pub source: &'a Source,
}

impl<B> Clone for Ground<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Ground<'_, B> {}

/// What is trained.
#[derive(Clone, Copy)]
pub enum Aim<'a> {
    /// A policy for the one backbone of the run. The learner `gumbel` needs its weights.
    OneBackbone(Option<&'a Tensors>),
    /// A policy for every backbone.
    AnyBackbone,
}

/// One training run: its identity, which must be the same when it is resumed, and its folder.
pub struct Run<'a, B> {
    /// The backbones; the updates play them by turns.
    pub grounds: &'a [Ground<'a, B>],
    /// What is trained.
    pub aim: Aim<'a>,
    /// The actor to start from; `None` for a new one.
    pub start: Option<&'a Start>,
    /// The configuration.
    pub config: &'a TrainConfig,
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
    #[serde(flatten)]
    first: SavedGround,
    config: TrainConfig,
    /// The other backbones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<SavedGround>,
    /// Hash of the policy that the run started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<String>,
}

/// The state of a run on one of its backbones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedGround {
    backbone: BackboneId,
    /// Data type of the backbone's arithmetic, by name. Checkpoints without it are of runs in f32.
    #[serde(default = "single")]
    dtype: String,
    /// Number of images of the training set, which distinguishes it from most other sets.
    images: usize,
    trainer: TrainerState,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
}

impl Saved {
    fn grounds(&self) -> impl Iterator<Item = &SavedGround> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

fn single() -> String {
    Precision::F32.to_string()
}

impl Header for Saved {
    fn steps_done(&self) -> usize {
        self.first.trainer.update
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        let differs = |of: fn(&SavedGround) -> String| !self.grounds().map(of).eq(other.grounds().map(of));
        if differs(|ground| format!("{:?}", ground.backbone)) {
            Some("backbone")
        } else if differs(|ground| ground.dtype.clone()) {
            Some("data type")
        } else if self.config != other.config {
            Some("configuration")
        } else if self.start != other.start {
            Some("policy to start from")
        } else if differs(|ground| ground.images.to_string()) {
            Some("training set")
        } else {
            None
        }
    }
}

/// Trains in `run.folder` until `run.config.updates` are done or `stop` is set; continues from the folder's
/// checkpoint if there is one. Returns the policy for the first backbone, which is the same on all ranks.
///
/// # Errors
/// If the configuration does not fit a backbone, an image or file cannot be read or written, or the folder's checkpoint
/// belongs to another run.
pub fn train<'a, B: Backbone>(
    run: &Run<'a, B>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(RunEvent<'_, UpdateLog>),
) -> Result<(Outcome, Policy)> {
    let device = run.device.device()?;
    let trainer = match (run.aim, run.grounds) {
        (Aim::OneBackbone(weights), [ground]) => {
            Trainer::new(ground.backbone, ground.id.clone(), weights, run.config, &device)?
        }
        (Aim::OneBackbone(_), _) => return Err(TrainError::Config("a policy is for one backbone".into())),
        (Aim::AnyBackbone, grounds) => {
            let named = |ground: &Ground<'a, B>| (ground.backbone, ground.id.clone(), ground.name.to_owned());
            let backbones = grounds.iter().map(named).collect();
            Trainer::on_several(backbones, run.config, &device)?
        }
    };
    let mut trainer = trainer.among(run.ranks);
    if let Some(start) = run.start {
        trainer = trainer.from_start(start.clone())?;
    }
    let feed = |ground: &Ground<'a, B>| {
        let Source { dataset, transform, workers, on_bad_image } = ground.source;
        Feed {
            dataset,
            transform,
            augment: None,
            seed: run.config.seed,
            batch: run.config.images_per_update,
            workers: *workers,
            on_bad_image: *on_bad_image,
            share: trainer.share(),
            ranks: run.ranks,
        }
    };
    let feeds: Vec<Feed<'_>> = run.grounds.iter().map(feed).collect();
    let mut session = Session { run, feeds: &feeds, trainer };
    let outcome = run::execute(&mut session, &feeds, run.folder, stop, progress)?;
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
    run: &'a Run<'a, B>,
    feeds: &'a [Feed<'a>],
    trainer: Trainer<'a, B>,
}

impl<B: Backbone> Session<'_, B> {
    /// Places the gate as boldly as `actor.initial_keep` and `actor.initial_loss` allow, or makes a given actor as mild as
    /// `actor.initial_loss` needs: the loss is that of sampled rollouts of the `batches` of each backbone.
    fn search_start(
        &mut self,
        probes: &[Vec<Probe>],
        batches: &[Vec<Batch>],
        stop: &AtomicBool,
        tell: Tell<'_, UpdateLog>,
    ) -> Result<Outcome> {
        let ActorConfig { initial_loss, initial_keep, .. } = self.run.config.actor;
        if !self.trainer.can_be_placed() || initial_loss == 0.0 {
            return Ok(Outcome::Finished);
        }
        let least = if self.run.start.is_some() { 0.5 } else { initial_keep };
        let mut steps = 0;
        let keep = boldest(least, initial_loss, |keep| {
            steps += 1;
            tell(RunEvent::Preparing { what: "placing the gate", done: steps, all: SEARCH_STEPS + 1 });
            self.trainer.place(probes, keep);
            let mut losses = Vec::new();
            for (board, batches) in batches.iter().enumerate() {
                for batch in batches {
                    losses.extend(self.trainer.sampled_losses(board, images(batch, &batch.keys()))?);
                    if self.run.ranks.any(stop.load(Ordering::Relaxed))? {
                        return Ok(None);
                    }
                }
            }
            Ok(Some(100.0 * losses.iter().sum::<f64>() / losses.len().max(1) as f64))
        })?;
        Ok(match keep {
            Some(keep) => {
                self.trainer.place(probes, keep);
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

    fn header(&self, at: &[EpochPosition]) -> Saved {
        let (states, _) = self.trainer.state();
        let mut grounds =
            self.run.grounds.iter().zip(states).zip(at).map(|((ground, state), at)| SavedGround {
                backbone: ground.id.clone(),
                dtype: ground.precision.to_string(),
                images: ground.source.dataset.len(),
                trainer: state.clone(),
                epoch: at.epoch,
                position: at.done,
            });
        Saved {
            first: grounds.next().expect("a run has a backbone"),
            config: self.run.config.clone(),
            others: grounds.collect(),
            start: self.run.start.map(|start| start.identity().to_owned()),
        }
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        self.trainer.state().1.save()
    }

    fn restore(&mut self, saved: Saved, tensors: &[NamedTensor]) -> Result<Vec<EpochPosition>> {
        let at = saved.grounds().map(|ground| EpochPosition { epoch: ground.epoch, done: ground.position });
        let (at, states) = (at.collect(), saved.grounds().map(|ground| ground.trainer.clone()).collect());
        self.trainer.restore(states, tensors)?;
        Ok(at)
    }

    /// Runs the probe on the reference images of each backbone, and searches where the actor starts.
    fn prepare(&mut self, stop: &AtomicBool, tell: Tell<'_, UpdateLog>) -> Result<Outcome> {
        if !self.trainer.needs_probes() {
            return Ok(Outcome::Finished);
        }
        let least = SEARCH_IMAGES.div_ceil(self.feeds.len());
        let wanted = |feed: &Feed<'_>| self.run.config.reward.reference_images.min(feed.dataset.len());
        let all = self.feeds.iter().map(wanted).sum();
        let (mut probed, mut before) = (Vec::new(), 0);
        let mut searched: Vec<Vec<Batch>> = Vec::new();
        for (board, feed) in self.feeds.iter().enumerate() {
            let (wanted, mut probes) = (wanted(feed), Vec::new());
            let (mut kept, mut to_search) = (Vec::new(), 0);
            for batch in feed.pass(u64::MAX, 0)? {
                let Shared { own: batch, whole } = batch?;
                let keys = batch.keys();
                probes.extend(self.trainer.probe(board, images(&batch, &keys))?);
                probes.truncate(wanted);
                tell(RunEvent::Preparing {
                    what: "measuring random pruning",
                    done: before + probes.len(),
                    all,
                });
                if to_search < least {
                    kept.push(batch);
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
            before += probes.len();
            probed.push(probes);
            searched.push(kept);
        }
        self.trainer.begin(&probed);
        self.search_start(&probed, &searched, stop, tell)
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
        let folder = folder.join("policy");
        match self.run.aim {
            Aim::OneBackbone(_) => self.trainer.policy().save(&folder)?,
            Aim::AnyBackbone => self.trainer.universal().save(&folder)?,
        }
        Ok(())
    }
}

fn images<'a>(batch: &'a Batch, keys: &'a [ImageKey]) -> Images<'a> {
    Images { pixels: PixelBatch::of_sizes(&batch.pixels, &batch.sizes), labels: &batch.labels, keys }
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
