//! How keep probabilities become decisions.

use serde::{Deserialize, Serialize};
use vitrim_vit::{View, VitSpec};

use crate::keyed::uniform;
use crate::pruner::ImageKey;
use crate::ranking::{at_least_kept, top_kept};

/// A deterministic or random rule from p_keep to keep or prune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReadOut {
    /// Keep with probability p_keep (what the seed paper's code does when it evaluates).
    Sample {
        /// Decisions are keyed by (seed, image, stage, token).
        seed: u64,
    },
    /// Keep where p_keep > `threshold`.
    Threshold {
        /// In 0..=1.
        threshold: f64,
    },
    /// Keep the highest p_keep, a fixed share of N0 at each stage.
    TopR {
        /// Shares of N0, `[K]`.
        keep: Vec<f64>,
    },
}

impl ReadOut {
    /// Who stays at `stage`, `[T]`, for logits of p_keep, `[T]` (prefix rows ignored; infinite ones always stay).
    pub(crate) fn kept(
        &self,
        spec: &VitSpec,
        stage: usize,
        view: &View<'_>,
        logits: &[f32],
        images: &[ImageKey],
    ) -> Vec<bool> {
        let at_least = spec.min_patch_tokens();
        match self {
            ReadOut::Sample { seed } => {
                let mut flags = vec![true; view.total()];
                for (b, image) in images.iter().enumerate() {
                    for row in view.patch_rows(b) {
                        let token = view.origins[row].grid().unwrap_or(usize::MAX) as u64;
                        flags[row] =
                            uniform(&[*seed, *image, stage as u64, token]) < keep_probability(logits[row]);
                    }
                }
                at_least_kept(view, logits, flags, at_least)
            }
            ReadOut::Threshold { threshold } => {
                let stays = |l: &f32| *l == f32::INFINITY || keep_probability(*l) > *threshold;
                at_least_kept(view, logits, logits.iter().map(stays).collect(), at_least)
            }
            ReadOut::TopR { keep } => {
                let count = (keep[stage] * spec.num_patches() as f64).round() as usize;
                let mut flags = top_kept(view, logits, |_| count.max(at_least));
                flags.iter_mut().zip(logits).for_each(|(kept, l)| *kept |= *l == f32::INFINITY);
                flags
            }
        }
    }
}

/// p_keep from the difference of the two logits.
pub fn keep_probability(logit: f32) -> f64 {
    1.0 / (1.0 + f64::from(-logit).exp())
}
