//! How keep probabilities become decisions.

use serde::{Deserialize, Serialize};
use vitrim_vit::{View, VitSpec};

use crate::keyed::uniform;
use crate::pruner::ImageKey;
use crate::ranking::rank;

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

/// An image's tokens at a stage.
pub(crate) struct Scored<'a> {
    pub stage: usize,
    pub view: &'a View<'a>,
    /// Which image of the view.
    pub b: usize,
    pub key: ImageKey,
    /// Of p_keep, `[t]`: prefix rows are ignored, infinite ones always stay.
    pub logits: &'a [f32],
}

impl ReadOut {
    /// Who stays, into `kept: [t]`.
    pub(crate) fn keep(&self, spec: &VitSpec, image: &Scored<'_>, kept: &mut [bool]) {
        let &Scored { stage, view, b, key, logits } = image;
        let (prefix, at_least) = (view.prefix, spec.min_patch_tokens());
        kept.fill(true);
        match self {
            ReadOut::Sample { seed } => {
                let first = view.rows(b).start;
                for i in prefix..kept.len() {
                    let token = view.origins[first + i].grid().unwrap_or(usize::MAX) as u64;
                    let drawn = uniform(&[*seed, key, stage as u64, token]);
                    kept[i] = drawn < keep_probability(logits[i]);
                }
            }
            ReadOut::Threshold { threshold } => {
                for (kept, l) in kept.iter_mut().zip(logits).skip(prefix) {
                    *kept = *l == f32::INFINITY || keep_probability(*l) > *threshold;
                }
            }
            ReadOut::TopR { keep } => {
                let count = (keep[stage] * spec.num_patches() as f64).round() as usize;
                let behind = rank(prefix..logits.len(), logits).into_iter().skip(count.max(at_least));
                behind.for_each(|i| kept[i] = logits[i] == f32::INFINITY);
            }
        }
        // Where the network needs more, those stay that are likeliest to.
        let staying = kept[prefix..].iter().filter(|kept| **kept).count();
        for _ in staying..at_least {
            let leaving = (prefix..kept.len()).filter(|&i| !kept[i]);
            if let Some(i) = leaving.max_by(|&i, &j| logits[i].total_cmp(&logits[j]).then(j.cmp(&i))) {
                kept[i] = true;
            }
        }
    }
}

/// p_keep from the difference of the two logits.
pub fn keep_probability(logit: f32) -> f64 {
    1.0 / (1.0 + f64::from(-logit).exp())
}
