//! Adaptive token sampling.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::{Acts, HandMade, KeepProfile};
use crate::pruner::{ImageKey, PruneError, Pruner, Result};

pub(super) const METHOD: HandMade = HandMade {
    name: "ats",
    about: "samples by the class token's attention and the values' norms",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::AtStages(|profile| Box::new(AtsPruner { profile })),
};

/// ATS (Fayyaz et al., ECCV 2022): in each stage's block, tokens are scored by the class token's attention to them
/// times the norm of their value, and sampled by the inverse of the scores' cumulative distribution at K fixed,
/// evenly spaced points. A token that holds several points is kept once, so that images differ in how many stay.
/// Attention has seen all tokens; only the sampled ones go on to the MLP. K is `patch_tokens` of the profile.
#[derive(Clone, Debug)]
struct AtsPruner {
    profile: KeepProfile,
}

impl Pruner for AtsPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let taps = Taps { value_norm: true, ..Taps::CLS_ATTENTION };
        self.profile.stages.iter().map(|block| (Site::after_attention_of(*block), taps)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let (Some(attention), Some(norms)) = (view.cls_attention, view.value_norm) else {
            return Err(PruneError::KeepProfile(
                "ats needs a view that carries attention and value norms".into(),
            ));
        };
        let mut keep = vec![false; view.total()];
        for b in 0..view.batch() {
            keep[view.offsets[b]..view.offsets[b] + view.prefix].fill(true);
            let scores: Vec<f64> =
                view.patch_rows(b).map(|row| f64::from(attention[row]) * f64::from(norms[row])).collect();
            for sampled in
                inverse_transform(&scores, self.profile.patch_tokens(stage, b, view.num_patches(b)))
            {
                keep[view.offsets[b] + view.prefix + sampled] = true;
            }
        }
        Ok(Reduction::keep(view.offsets, &keep))
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        // The norms of the values, and their products with the attention.
        (tokens * (self.profile.dim + 1)) as u64
    }
}

/// The indices at which the cumulative distribution of `scores` reaches (2 i + 1) / (2 `points`).
fn inverse_transform(scores: &[f64], points: usize) -> Vec<usize> {
    if points >= scores.len() {
        return (0..scores.len()).collect();
    }
    let total: f64 = scores.iter().sum();
    let mut sampled = Vec::with_capacity(points);
    let (mut index, mut reached) = (0, scores[0]);
    for i in 0..points {
        let wanted = total * (2 * i + 1) as f64 / (2 * points) as f64;
        while reached < wanted && index + 1 < scores.len() {
            index += 1;
            reached += scores[index];
        }
        sampled.push(index);
    }
    sampled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_tokens_hold_several_points() {
        assert_eq!(inverse_transform(&[1.0, 1.0, 1.0, 1.0], 2), [0, 2]);
        assert_eq!(inverse_transform(&[0.0, 10.0, 0.0, 1.0, 1.0], 4), [1, 1, 1, 3]);
        assert_eq!(inverse_transform(&[1.0, 2.0], 3), [0, 1], "as many points as tokens keep them all");
        assert_eq!(inverse_transform(&[1.0, 1.0], 0), Vec::<usize>::new());
    }
}
