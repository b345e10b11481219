//! Selection by dissimilarity.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::{Acts, HandMade, KeepProfile};
use crate::pruner::{ImageKey, Pruner, Result};
use crate::ranking::keep_top;

pub(super) const METHOD: HandMade = HandMade {
    name: "similarity",
    about: "keeps what differs most from the mean",
    first_block: 0,
    keeps_budgets: true,
    acts: Acts::AtStages(|profile| Box::new(SimilarityPruner { profile })),
};

/// Drops the patch tokens that are nearest to the mean of their image's survivors, by cosine: tokens that resemble
/// the others are assumed to carry the least information.
#[derive(Clone, Debug)]
struct SimilarityPruner {
    profile: KeepProfile,
}

impl Pruner for SimilarityPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.profile.sites(Taps::NONE)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let mut scores = vec![0.0; view.total()];
        for b in 0..view.batch() {
            let mut sum = vec![0.0f32; view.dim];
            for row in view.patch_rows(b) {
                sum.iter_mut().zip(view.token(row)).for_each(|(sum, v)| *sum += v);
            }
            for row in view.patch_rows(b) {
                scores[row] = -cosine(view.token(row), &sum);
            }
        }
        Ok(keep_top(view, &scores, |b| self.profile.patch_tokens(stage, b, view.num_patches(b))))
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        (2 * tokens * self.profile.dim) as u64
    }
}

/// Cosine of two vectors of equal length; 0 if one is zero.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
