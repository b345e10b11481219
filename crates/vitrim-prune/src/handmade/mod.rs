//! The hand-made methods: what a learned policy has to beat.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec, cost};

use crate::keyed::uniform;
use crate::pruner::{ImageKey, PruneError, Pruner, Result};
use crate::ranking::keep_top;

/// How many patch tokens stay at each stage, the same for every image.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepProfile {
    stages: Vec<usize>,
    patch_tokens: Vec<usize>,
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
        Ok(KeepProfile { stages: stages.to_vec(), patch_tokens })
    }

    /// Patch tokens kept at each stage.
    pub fn patch_tokens(&self) -> &[usize] {
        &self.patch_tokens
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

    fn begin(&mut self, _: &[ImageKey]) {}

    fn decide(&mut self, _: usize, view: &View<'_>) -> Result<Reduction> {
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
    images: Vec<ImageKey>,
}

impl RandomPruner {
    /// With decisions keyed by (`seed`, image, stage, token).
    pub fn new(profile: KeepProfile, seed: u64) -> Self {
        RandomPruner { profile, seed, images: Vec::new() }
    }
}

impl Pruner for RandomPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.profile.sites(Taps::NONE)
    }

    fn begin(&mut self, images: &[ImageKey]) {
        self.images = images.to_vec();
    }

    fn decide(&mut self, stage: usize, view: &View<'_>) -> Result<Reduction> {
        let mut scores = vec![0.0; view.total()];
        for b in 0..view.batch() {
            for row in view.patch_rows(b) {
                let token = view.origins[row].grid().unwrap_or(usize::MAX) as u64;
                scores[row] = uniform(&[self.seed, self.images[b], stage as u64, token]) as f32;
            }
        }
        Ok(keep_top(view, &scores, self.profile.patch_tokens[stage]))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
}

/// Keeps the patch tokens to which the class token attended most in the previous block, mean over heads
/// (EViT's selection, without its fused token; Liang et al., ICLR 2022). Without a class token: those
/// that received the most attention.
#[derive(Clone, Debug)]
pub struct ClsAttentionPruner {
    profile: KeepProfile,
}

impl ClsAttentionPruner {
    /// # Errors
    /// [`PruneError::KeepProfile`] if a stage lies before block 1, where no attention has run yet.
    pub fn new(profile: KeepProfile) -> Result<Self> {
        if profile.stages.first() == Some(&0) {
            return Err(PruneError::KeepProfile("cls-attention cannot act before block 1".into()));
        }
        Ok(ClsAttentionPruner { profile })
    }
}

impl Pruner for ClsAttentionPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.profile.sites(Taps::CLS_ATTENTION)
    }

    fn begin(&mut self, _: &[ImageKey]) {}

    fn decide(&mut self, stage: usize, view: &View<'_>) -> Result<Reduction> {
        let scores = view.cls_attention.ok_or_else(|| {
            PruneError::KeepProfile("cls-attention needs a view that carries attention".into())
        })?;
        Ok(keep_top(view, scores, self.profile.patch_tokens[stage]))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0 // attention is computed anyway; ranking multiplies nothing
    }
}
