//! Selection by chance.

use vitrim_random::uniform;
use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::{Acts, HandMade, KeepProfile};
use crate::pruner::{ImageKey, Pruner, Result};
use crate::ranking::keep_top;

/// Seed of the method in comparisons.
const SEED: u64 = 0;

pub(super) const METHOD: HandMade = HandMade {
    name: "random",
    about: "keeps random patch tokens",
    first_block: 0,
    keeps_budgets: true,
    acts: Acts::AtStages(|profile| Box::new(RandomPruner::new(profile, SEED))),
};

/// Keeps random patch tokens.
#[derive(Clone, Debug)]
pub struct RandomPruner {
    profile: KeepProfile,
    seed: u64,
}

impl RandomPruner {
    /// Keeps the patch tokens that `profile` says; decisions are keyed by (`seed`, image, stage, token).
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
        Ok(keep_top(view, &scores, |b| self.profile.patch_tokens(stage, b, view.num_patches(b))))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
}
