//! Figures of single images under one setting.

use serde::{Deserialize, Serialize};
use vitrim_prune::Pruned;
use vitrim_prune::divergence::divergence;
use vitrim_vit::{Output, VitSpec};

use super::setting::Setting;
use crate::passes::dense_macs;

/// One setting's figures of each image, in the order of the data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The setting.
    pub setting: Setting,
    /// MACs as a share of the dense model's, the pruner's own scoring included.
    pub costs: Vec<f32>,
    /// D to the dense prediction, nats.
    pub divergences: Vec<f32>,
    /// Whether the pruned model is right; without a label, whether it agrees with the dense model.
    pub right: Vec<bool>,
    /// Patch tokens left after each stage, summed over all images, `[K]`; not kept in the folder.
    #[serde(skip)]
    pub patch_tokens: Vec<usize>,
    /// Patches of all images; not kept in the folder.
    #[serde(skip)]
    pub patches: usize,
}

impl Outcome {
    /// The outcome of `setting` before any image.
    pub fn new(setting: Setting) -> Self {
        Outcome {
            setting,
            costs: Vec::new(),
            divergences: Vec::new(),
            right: Vec::new(),
            patch_tokens: Vec::new(),
            patches: 0,
        }
    }

    /// Adds a batch: `dense` and `pruned` logits `[B, C]`, `labels: [B]`.
    pub fn add(&mut self, spec: &VitSpec, dense: &Output, pruned: &Pruned, labels: &[Option<u32>]) {
        let unpruned = dense_macs(spec, &pruned.grids);
        let shares = pruned.macs.iter().zip(&unpruned).map(|(macs, dense)| *macs as f64 / *dense as f64);
        self.costs.extend(shares.map(|share| share as f32));
        self.patches += pruned.grids.iter().map(|[rows, columns]| rows * columns).sum::<usize>();
        self.patch_tokens.resize(pruned.stages.len(), 0);
        for (sum, stage) in self.patch_tokens.iter_mut().zip(&pruned.stages) {
            *sum += (0..labels.len()).map(|b| stage.patch_tokens(b)).sum::<usize>();
        }
        let classes = dense.argmax().into_iter().zip(pruned.answer.argmax());
        for (b, ((dense_class, class), label)) in classes.zip(labels).enumerate() {
            self.divergences.push(divergence(dense.row(b), pruned.answer.row(b)) as f32);
            self.right.push(label.map_or(class == dense_class, |label| label as usize == class));
        }
    }

    /// Adds the images of `next`, of the same setting, behind its own.
    pub fn append(&mut self, mut next: Outcome) {
        self.costs.append(&mut next.costs);
        self.divergences.append(&mut next.divergences);
        self.right.append(&mut next.right);
        self.patches += next.patches;
        self.patch_tokens.resize(next.patch_tokens.len().max(self.patch_tokens.len()), 0);
        self.patch_tokens.iter_mut().zip(next.patch_tokens).for_each(|(sum, more)| *sum += more);
    }

    /// Mean share of N0 left after each stage, `[K]`.
    pub fn keep_ratios(&self) -> Vec<f64> {
        let all = self.patches as f64;
        self.patch_tokens.iter().map(|tokens| *tokens as f64 / all).collect()
    }

    /// Means over all images.
    pub fn all(&self) -> Mean {
        self.mean(&vec![1; self.costs.len()])
    }

    /// Mean cost, D and share of right images, each image counted `weights[i]` times.
    pub fn mean(&self, weights: &[u32]) -> Mean {
        let (mut cost, mut divergence, mut right, mut count) = (0.0, 0.0, 0u64, 0u64);
        for (i, &weight) in weights.iter().enumerate() {
            let times = f64::from(weight);
            cost += times * f64::from(self.costs[i]);
            divergence += times * f64::from(self.divergences[i]);
            right += u64::from(weight) * u64::from(self.right[i]);
            count += u64::from(weight);
        }
        let count = count.max(1) as f64;
        Mean { cost: cost / count, divergence: divergence / count, top1: 100.0 * right as f64 / count }
    }
}

/// Means over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// MACs as a share of the dense model's.
    pub cost: f64,
    /// D, nats.
    pub divergence: f64,
    /// Top-1, percent; without labels, agreement with the dense model.
    pub top1: f64,
}

impl Mean {
    /// The mean if a share `weight` of the images runs with `other` and the rest with `self`.
    pub fn mixed(self, other: Mean, weight: f64) -> Mean {
        let mix = |a: f64, b: f64| a + weight * (b - a);
        Mean {
            cost: mix(self.cost, other.cost),
            divergence: mix(self.divergence, other.divergence),
            top1: mix(self.top1, other.top1),
        }
    }
}
