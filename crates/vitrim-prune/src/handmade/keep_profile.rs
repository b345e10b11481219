//! How many tokens a method keeps at each stage.

use vitrim_vit::{Site, Taps, VitSpec, cost};

use super::registry::keep_shares;
use crate::pruner::{PruneError, Result};

/// Number of ratios that [`KeepProfile::at_cost`] chooses from.
const RATIOS: usize = 1000;

/// How many patch tokens stay at each stage.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepProfile {
    pub(super) stages: Vec<usize>,
    patch_tokens: Budgets,
    /// D, the width of a token.
    pub(super) dim: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Budgets {
    /// Shares of its N0 that every image keeps, `[K]`, and the least number of tokens.
    Shares(Vec<f64>, usize),
    /// Patch tokens that each image of the batch keeps, `[K][B]`.
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
        Ok(KeepProfile {
            stages: stages.to_vec(),
            patch_tokens: Budgets::Shares(shares.to_vec(), spec.min_patch_tokens()),
            dim: spec.dim,
        })
    }

    /// The profile whose MACs are nearest to `macs` among those that keep the k-th power of one ratio after the k-th of
    /// `stages`.
    ///
    /// # Errors
    /// As [`KeepProfile::new`].
    pub(super) fn at_cost(spec: &VitSpec, stages: &[usize], macs: u64) -> Result<Self> {
        let profile = |step: usize| {
            let shares = keep_shares(&[step as f64 / RATIOS as f64], stages.len())?;
            KeepProfile::new(spec, stages, &shares)
        };
        let profiles: Vec<KeepProfile> = (0..=RATIOS).map(profile).collect::<Result<_>>()?;
        let nearest = profiles.into_iter().min_by_key(|profile| profile.macs(spec, 0).abs_diff(macs));
        Ok(nearest.expect("there are ratios"))
    }

    /// Keeps `patch_tokens[k][b]` of image b of a batch before block `stages[k]`.
    ///
    /// # Errors
    /// [`PruneError::KeepProfile`] unless there are budgets for each stage, and stages ascend inside the network.
    pub fn of_each_image(spec: &VitSpec, stages: &[usize], patch_tokens: Vec<Vec<usize>>) -> Result<Self> {
        let all = KeepProfile::new(spec, stages, &vec![1.0; patch_tokens.len()])?;
        Ok(KeepProfile { patch_tokens: Budgets::Own(patch_tokens), ..all })
    }

    /// Patch tokens that image `b` of the batch, of `patches` patches, keeps at `stage`.
    pub fn patch_tokens(&self, stage: usize, b: usize, patches: usize) -> usize {
        match &self.patch_tokens {
            Budgets::Shares(shares, least) => {
                let kept = (shares[stage] * patches as f64).round() as usize;
                kept.max(*least)
            }
            Budgets::Own(own) => own[stage][b],
        }
    }

    /// MACs of image `b` of a batch of `spec` that is pruned with this profile, without scoring.
    pub fn macs(&self, spec: &VitSpec, b: usize) -> u64 {
        let step = |(stage, block): (usize, &usize)| {
            let patches = self.patch_tokens(stage, b, spec.num_patches());
            (Site::input_of(*block), patches + spec.num_prefix_tokens())
        };
        cost::image_macs(spec, &self.stages.iter().enumerate().map(step).collect::<Vec<_>>())
    }

    /// The inputs of the stages' blocks.
    pub(super) fn sites(&self, taps: Taps) -> Vec<(Site, Taps)> {
        self.stages.iter().map(|&block| (Site::input_of(block), taps)).collect()
    }
}
