//! The share of an update's images that one rank plays, and the whole that all of them have played.
//!
//! The backbone answers each image on its own, and random numbers are keyed by image, so that the shares, one behind the
//! other in the order of the ranks, are what one process plays. All ranks then learn from the whole, each for itself.

use vitrim_prune::ImageKey;
use vitrim_ranks::{Damaged, Ranks, Wire};
use vitrim_vit::Output;

use crate::error::{Result, TrainError};
use crate::rollout::{Rollout, StageSample};

/// What a rank has played of I images.
#[derive(Clone, Debug)]
pub struct Share {
    /// Checksum of the policy that played.
    pub policy: u32,
    /// Seconds that it took.
    pub seconds: f64,
    /// Keys of the images, `[I]`.
    pub keys: Vec<ImageKey>,
    /// Classes, `[I]`.
    pub labels: Vec<usize>,
    /// The dense model's answers, `[I, C]`.
    pub dense: Output,
    /// Dense passes before the first stage and for the dense answers, an image.
    pub passes: f64,
    /// Rollouts of the images; none if there are no images.
    pub rollouts: Vec<Rollout>,
}

/// An update's images as all ranks have played them.
pub struct Whole {
    /// The ranks' shares as one.
    pub played: Share,
    /// Bytes that this rank got from others.
    pub bytes: usize,
}

impl Share {
    /// That of a rank without images.
    pub fn none(policy: u32) -> Self {
        Share {
            policy,
            seconds: 0.0,
            keys: Vec::new(),
            labels: Vec::new(),
            dense: Output { values: Vec::new(), width: 0 },
            passes: 0.0,
            rollouts: Vec::new(),
        }
    }

    /// The shares of all `ranks`, as one.
    ///
    /// # Errors
    /// If a rank has failed, has played another policy, or there are no images.
    pub fn gathered(self, ranks: &Ranks) -> Result<Whole> {
        let (shares, bytes) = ranks.gather(self)?;
        if let Some(rank) = shares.iter().position(|share| share.policy != shares[0].policy) {
            return Err(TrainError::OtherPolicy(rank));
        }
        let seconds = shares.iter().map(|share| share.seconds).fold(0.0, f64::max);
        let all = shares.into_iter().filter(|share| !share.keys.is_empty()).reduce(Share::with);
        let played = Share { seconds, ..all.ok_or(TrainError::NoImages)? };
        Ok(Whole { played, bytes })
    }

    /// This share with the images of `next` behind its own.
    fn with(mut self, mut next: Share) -> Share {
        self.keys.append(&mut next.keys);
        self.labels.append(&mut next.labels);
        self.dense.values.append(&mut next.dense.values);
        // An image without a known answer makes all of one process's images pass densely.
        self.passes = self.passes.max(next.passes);
        for (rollout, more) in self.rollouts.iter_mut().zip(next.rollouts) {
            rollout.append(more);
        }
        self
    }
}

impl Wire for Share {
    fn put(&self, into: &mut Vec<u8>) {
        self.policy.put(into);
        self.seconds.put(into);
        self.keys.put(into);
        self.labels.put(into);
        self.dense.values.put(into);
        self.dense.width.put(into);
        self.passes.put(into);
        self.rollouts.len().put(into);
        for (r, rollout) in self.rollouts.iter().enumerate() {
            rollout.stages.len().put(into);
            for (k, stage) in rollout.stages.iter().enumerate() {
                // All rollouts have the same agents at the first stage.
                if r == 0 || k > 0 {
                    put_seen(stage, into);
                }
                stage.kept.put(into);
                stage.log_probs.put(into);
            }
            rollout.divergences.put(into);
            rollout.predictions.put(into);
            rollout.costs.put(into);
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        let mut share = Share { policy: u32::take(from)?, seconds: f64::take(from)?, ..Share::none(0) };
        share.keys = Vec::take(from)?;
        share.labels = Vec::take(from)?;
        share.dense = Output { values: Vec::take(from)?, width: usize::take(from)? };
        share.passes = f64::take(from)?;
        for _ in 0..usize::take(from)? {
            let first = share.rollouts.first().and_then(|rollout| rollout.stages.first());
            let stages = (0..usize::take(from)?).map(|k| {
                let stage = match first.filter(|_| k == 0) {
                    Some(first) => first.clone(),
                    None => take_seen(from)?,
                };
                Ok(StageSample { kept: Vec::take(from)?, log_probs: Vec::take(from)?, ..stage })
            });
            let stages = stages.collect::<Result<_, Damaged>>()?;
            let divergences = Vec::take(from)?;
            let (predictions, costs) = (Vec::take(from)?, Vec::take(from)?);
            share.rollouts.push(Rollout { stages, divergences, predictions, costs });
        }
        Ok(share)
    }
}

/// Appends what the agents of `stage` saw before they acted.
fn put_seen(stage: &StageSample, into: &mut Vec<u8>) {
    let StageSample { offsets, positions, tokens, scalars, contexts, free, kept: _, log_probs: _ } = stage;
    offsets.put(into);
    positions.put(into);
    tokens.put(into);
    scalars.put(into);
    contexts.put(into);
    free.put(into);
}

/// A stage before anyone has acted.
fn take_seen(from: &mut &[u8]) -> Result<StageSample, Damaged> {
    Ok(StageSample {
        offsets: Vec::take(from)?,
        positions: Vec::take(from)?,
        tokens: Vec::take(from)?,
        scalars: Vec::take(from)?,
        contexts: Vec::take(from)?,
        free: Vec::take(from)?,
        kept: Vec::new(),
        log_probs: Vec::new(),
    })
}
