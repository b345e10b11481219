//! The configuration of a metric's training.

use serde::{Deserialize, Serialize};
use vitrim_vit::VitSpec;

use crate::burn_vit::{Softness, merging_blocks};
use crate::checks::{one_size, positive, within};
use crate::error::TrainError;
use crate::schedule::warmed_up_cosine;

/// Most images per step.
const MOST_IN_A_BATCH: f64 = 65_536.0;

/// All settings of a metric's training. OpenToMe's code has the method, but no values of its temperatures and candidates:
/// those here are vitrim's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricConfig {
    /// Images to train on, repetitions counted.
    pub images: usize,
    /// Images per step.
    pub batch: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Width of the vectors that are compared, in widths of a head.
    pub parts: usize,
    /// Each step merges a random number of tokens in a block, at most so many; 0 for the number of patch tokens over that of
    /// blocks, rounded down.
    pub most_removed: usize,
    /// Divides the cosines in training.
    pub cosine_temperature: f64,
    /// Temperature of the softmax in each round of the matching.
    pub round_temperature: f64,
    /// Partners that each token considers in training: the most similar ones.
    pub candidates: usize,
    /// Adam's learning rate after the warm-up.
    pub learning_rate: f64,
    /// Learning rate of the last step; the rate falls along a cosine.
    pub learning_rate_end: f64,
    /// Share of the steps over which the learning rate rises from 0.
    pub warmup: f64,
    /// Largest gradient norm.
    pub max_grad_norm: f64,
    /// Whether images are flipped at random.
    pub flip: bool,
    /// Steps per log entry, each of which saves a checkpoint.
    pub log_every: usize,
}

impl Default for MetricConfig {
    fn default() -> Self {
        MetricConfig {
            images: 4_096,
            batch: 16,
            seed: 0,
            parts: 1,
            most_removed: 0,
            cosine_temperature: 0.1,
            round_temperature: 0.1,
            candidates: 3,
            learning_rate: 1e-3,
            learning_rate_end: 1e-5,
            warmup: 0.05,
            max_grad_norm: 1.0,
            flip: true,
            log_every: 8,
        }
    }
}

impl MetricConfig {
    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.images.div_ceil(self.batch)
    }

    /// Checks that a backbone of geometry `spec` can learn a metric, and the values of the configuration.
    ///
    /// # Errors
    /// [`TrainError::ManySizes`]; or one line that names the key and its valid values.
    pub fn check(&self, spec: &VitSpec) -> Result<(), TrainError> {
        one_size(spec)?;
        if merging_blocks(spec) == 0 || spec.num_patches() < 2 {
            let reason = "the backbone has no two patch tokens whose merging would change its answer";
            return Err(TrainError::Config(reason.into()));
        }
        self.check_values(spec.attention.heads).map_err(TrainError::Config)
    }

    fn check_values(&self, heads: usize) -> Result<(), String> {
        positive(&[("images", self.images), ("candidates", self.candidates), ("log_every", self.log_every)])?;
        within(&[
            ("batch", self.batch as f64, 1.0, MOST_IN_A_BATCH),
            ("parts", self.parts as f64, 1.0, heads as f64),
            ("cosine_temperature", self.cosine_temperature, 1e-3, 1e3),
            ("round_temperature", self.round_temperature, 1e-3, 1e3),
            ("learning_rate", self.learning_rate, 0.0, 1.0),
            ("learning_rate_end", self.learning_rate_end, 0.0, 1.0),
            ("warmup", self.warmup, 0.0, 1.0),
            ("max_grad_norm", self.max_grad_norm, 1e-6, 1e6),
        ])
    }

    pub(super) fn softness(&self) -> Softness {
        Softness {
            cosine_temperature: self.cosine_temperature,
            round_temperature: self.round_temperature,
            candidates: self.candidates,
        }
    }

    /// Learning rate of step `step`.
    pub(super) fn learning_rate_at(&self, step: usize) -> f64 {
        let rates = [self.learning_rate, self.learning_rate_end];
        warmed_up_cosine(rates, self.warmup, step, self.steps())
    }
}
