//! The hand-made methods: what a learned policy has to beat.
//!
//! Each is what its paper defines, on a frozen backbone, without the training that some papers add.

mod ats;
mod attention;
mod similarity;
mod tome;

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec, cost};

pub use ats::AtsPruner;
pub use attention::{ClsAttentionPruner, EvitPruner};
pub use similarity::SimilarityPruner;
pub use tome::TomePruner;

use crate::keyed::uniform;
use crate::pruner::{ImageKey, PruneError, Pruner, Result};
use crate::ranking::keep_top;

/// How many patch tokens stay at each stage.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepProfile {
    stages: Vec<usize>,
    patch_tokens: Budgets,
    /// D.
    dim: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Budgets {
    /// Of every image, `[K]`.
    Common(Vec<usize>),
    /// Of each image of the batch, `[K][B]`.
    Own(Vec<Vec<usize>>),
}

impl KeepProfile {
    /// Keeps `shares[k]` of N0, rounded to the nearest token, before block `stages[k]`.
    ///
    /// # Errors
    /// [`PruneError::KeepProfile`] unless there is one share for each stage, stages ascend inside the
    /// network, and shares lie in 0..=1 and do not rise.
    pub fn new(spec: &VitSpec, stages: &[usize], shares: &[f64]) -> Result<Self> {
        let fail = |reason: String| Err(PruneError::KeepProfile(reason));
        if stages.len() != shares.len() {
            return fail(format!("{} shares for {} stages", shares.len(), stages.len()));
        }
        if stages.windows(2).any(|w| w[0] >= w[1]) || stages.iter().any(|l| *l >= spec.depth) {
            return fail(format!("stages {stages:?} must ascend below the depth of {}", spec.depth));
        }
        if shares.iter().any(|s| !(0.0..=1.0).contains(s)) || shares.windows(2).any(|w| w[0] < w[1]) {
            return fail(format!("shares {shares:?} must fall from at most 1 to at least 0"));
        }
        let prefix = spec.num_prefix_tokens();
        let patch_tokens = cost::profile_tokens(spec, shares)
            .into_iter()
            .map(|tokens| (tokens - prefix).max(spec.min_patch_tokens()))
            .collect();
        Ok(KeepProfile {
            stages: stages.to_vec(),
            patch_tokens: Budgets::Common(patch_tokens),
            dim: spec.dim,
        })
    }

    /// Keeps `patch_tokens[k][b]` of image b of a batch before block `stages[k]`.
    ///
    /// # Errors
    /// [`PruneError::KeepProfile`] unless there are budgets for each stage, and stages ascend inside the network.
    pub fn of_each_image(spec: &VitSpec, stages: &[usize], patch_tokens: Vec<Vec<usize>>) -> Result<Self> {
        let common = KeepProfile::new(spec, stages, &vec![1.0; patch_tokens.len()])?;
        Ok(KeepProfile { patch_tokens: Budgets::Own(patch_tokens), ..common })
    }

    /// Patch tokens that image `b` of the batch keeps at `stage`.
    pub fn patch_tokens(&self, stage: usize, b: usize) -> usize {
        match &self.patch_tokens {
            Budgets::Common(common) => common[stage],
            Budgets::Own(own) => own[stage][b],
        }
    }

    /// MACs of image `b` of a batch of `spec` that is pruned so, without scoring.
    pub fn macs(&self, spec: &VitSpec, b: usize) -> u64 {
        let step = |(stage, block): (usize, &usize)| {
            (Site::input_of(*block), self.patch_tokens(stage, b) + spec.num_prefix_tokens())
        };
        cost::image_macs(spec, &self.stages.iter().enumerate().map(step).collect::<Vec<_>>())
    }

    fn sites(&self, taps: Taps) -> Vec<(Site, Taps)> {
        self.stages.iter().map(|&block| (Site::input_of(block), taps)).collect()
    }
}

/// Prunes nothing: the dense model.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPruner;

impl Pruner for NoPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        Vec::new()
    }

    fn decide(&self, _: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        Ok(Reduction::keep(view.offsets, &vec![true; view.total()]))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
}

/// Keeps random patch tokens.
#[derive(Clone, Debug)]
pub struct RandomPruner {
    profile: KeepProfile,
    seed: u64,
}

impl RandomPruner {
    /// With decisions keyed by (`seed`, image, stage, token).
    pub fn new(profile: KeepProfile, seed: u64) -> Self {
        RandomPruner { profile, seed }
    }
}

impl Pruner for RandomPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.profile.sites(Taps::NONE)
    }

    fn decide(&self, stage: usize, view: &View<'_>, keys: &[ImageKey]) -> Result<Reduction> {
        let mut scores = vec![0.0; view.total()];
        for (b, &key) in keys.iter().enumerate() {
            for row in view.patch_rows(b) {
                let token = view.origins[row].grid().unwrap_or(usize::MAX) as u64;
                scores[row] = uniform(&[self.seed, key, stage as u64, token]) as f32;
            }
        }
        Ok(keep_top(view, &scores, |b| self.profile.patch_tokens(stage, b)))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
}
