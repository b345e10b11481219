//! The configuration of fine-tuning.

use serde::{Deserialize, Serialize};

use crate::checks::{positive, within};
use crate::pretrain::AugmentConfig;
use crate::schedule::warmed_up_cosine;

/// All settings of a fine-tuning run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Images to train on, repetitions counted.
    pub images: usize,
    /// Images per step.
    pub batch: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// AdamW's learning rate after the warm-up.
    pub learning_rate: f64,
    /// Learning rate of the last step; the rate falls along a cosine.
    pub learning_rate_end: f64,
    /// Share of the steps over which the learning rate rises from 0.
    pub warmup: f64,
    /// Decoupled weight decay; biases, norms, class token and position embedding do not decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub max_grad_norm: f64,
    /// Weight of the labels' cross-entropy, relative to D to the dense model's answers.
    pub label_weight: f64,
    /// Weight of the squared distance to the dense model's pooled features, in units of their squared length,
    /// relative to D: features say more about an image than logits.
    pub feature_weight: f64,
    /// Steps per log entry.
    pub log_every: usize,
    /// Log entries between two evaluations, each of which saves a checkpoint.
    pub evaluate_every: usize,
    /// Held-out images per evaluation.
    pub held_out_images: usize,
    /// Random changes to training images.
    pub augment: AugmentConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        FinetuneConfig {
            images: 400_000,
            batch: 64,
            seed: 0,
            learning_rate: 1e-4,
            learning_rate_end: 1e-6,
            warmup: 0.05,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            label_weight: 0.0,
            feature_weight: 5.0,
            log_every: 50,
            evaluate_every: 10,
            held_out_images: 5_000,
            augment: AugmentConfig { crop_padding: 0, flip: true, color_jitter: 0.0 },
        }
    }
}

impl FinetuneConfig {
    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.images.div_ceil(self.batch)
    }

    /// Checks the values of the configuration.
    ///
    /// # Errors
    /// One line that names the key and its valid values.
    pub fn check(&self) -> Result<(), String> {
        positive(&[
            ("images", self.images),
            ("batch", self.batch),
            ("log_every", self.log_every),
            ("evaluate_every", self.evaluate_every),
            ("held_out_images", self.held_out_images),
        ])?;
        within(&[
            ("learning_rate", self.learning_rate, 0.0, 1.0),
            ("learning_rate_end", self.learning_rate_end, 0.0, 1.0),
            ("warmup", self.warmup, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("max_grad_norm", self.max_grad_norm, 1e-6, 1e6),
            ("label_weight", self.label_weight, 0.0, 100.0),
            ("feature_weight", self.feature_weight, 0.0, 1e4),
            ("augment.color_jitter", f64::from(self.augment.color_jitter), 0.0, 0.95),
        ])
    }

    /// Learning rate of step `step`: linear warm-up, then a cosine.
    pub(super) fn learning_rate_at(&self, step: usize) -> f64 {
        let rates = [self.learning_rate, self.learning_rate_end];
        warmed_up_cosine(rates, self.warmup, step, self.steps())
    }
}
