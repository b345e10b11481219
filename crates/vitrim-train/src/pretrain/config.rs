//! The configuration of pre-training.

use serde::{Deserialize, Serialize};
use vitrim_data::Augment;
use vitrim_vit::VitSpec;

use crate::checks::{positive, within};
use crate::schedule::warmed_up_cosine;

/// All settings of a pre-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
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
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// alpha of mixup's Beta(alpha, alpha) (Zhang et al., 2018); 0 for none.
    pub mixup: f64,
    /// Weight of the mean cross-entropy over patch tokens, relative to that of the class token, if the data set has
    /// the patches that an object covers (token labeling: Jiang et al., 2021); 0 for none. It cannot be combined with
    /// options that move or mix pixels.
    pub token_labels: f64,
    /// Before `crop_until`, each image is seen through a window of this many rows and columns of patches: around its
    /// object if the data set has it, otherwise anywhere; 0 for the whole image. Positions stay those of the whole
    /// image. The time of a step falls by more than the share of patches left out.
    pub crop: usize,
    /// Share of the steps after which whole images are used.
    pub crop_until: f64,
    /// In steps on whole images, random patches are left out, another set for each image (PatchDropout: Liu et al.,
    /// 2022; timm's `patch_drop_rate`): a share that is drawn for the step between 0 and this. A backbone that was
    /// trained on few tokens loses less when it is pruned, and steps are faster. 0 for none.
    pub patch_drop: f64,
    /// Whether blocks run in bf16 if the device supports it; weights, loss and optimiser stay in f32.
    pub bf16: bool,
    /// Steps per log entry.
    pub log_every: usize,
    /// Log entries between two evaluations, each of which saves a checkpoint.
    pub evaluate_every: usize,
    /// Held-out images per evaluation.
    pub held_out_images: usize,
    /// The backbone's geometry.
    pub model: ModelConfig,
    /// Random changes to training images.
    pub augment: AugmentConfig,
}

/// A plain ViT with a class token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Height and width of the input, pixels.
    pub img_size: usize,
    /// Patch side, pixels.
    pub patch_size: usize,
    /// D: channels of the residual stream.
    pub dim: usize,
    /// L: number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Ratio of the MLP's hidden width to D.
    pub mlp_ratio: usize,
}

/// Random changes to training images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Pixels by which an image is padded on each side before a crop of its own size is cut out.
    pub crop_padding: u32,
    /// Whether half of the images are mirrored.
    pub flip: bool,
    /// Brightness, contrast and saturation change by factors within 1 +- this.
    pub color_jitter: f32,
}

impl PretrainConfig {
    /// The preset called `name`: `default`, for photographs, or `scenes`.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::default_preset()),
            "scenes" => Some(Self::scenes_preset()),
            _ => None,
        }
    }

    /// DeiT's recipe for a small model: a ViT-Ti/16 at 224.
    pub fn default_preset() -> Self {
        PretrainConfig {
            images: 10_000_000,
            batch: 256,
            seed: 0,
            learning_rate: 1e-3,
            learning_rate_end: 1e-5,
            warmup: 0.05,
            weight_decay: 0.05,
            max_grad_norm: 1.0,
            label_smoothing: 0.1,
            mixup: 0.2,
            token_labels: 0.0,
            crop: 0,
            crop_until: 0.8,
            patch_drop: 0.0,
            bf16: true,
            log_every: 50,
            evaluate_every: 10,
            held_out_images: 5_000,
            model: ModelConfig { img_size: 224, patch_size: 16, dim: 192, depth: 12, heads: 3, mlp_ratio: 4 },
            augment: AugmentConfig { crop_padding: 28, flip: true, color_jitter: 0.3 },
        }
    }

    /// A small ViT for the generated images (`scenes`). They never repeat, so that no augmentation is needed.
    pub fn scenes_preset() -> Self {
        PretrainConfig {
            images: 1_000_000,
            batch: 32,
            warmup: 0.03,
            label_smoothing: 0.0,
            mixup: 0.0,
            token_labels: 1.0,
            crop: 8,
            crop_until: 0.75,
            log_every: 100,
            evaluate_every: 8,
            held_out_images: 2_000,
            model: ModelConfig { img_size: 96, patch_size: 8, dim: 96, depth: 8, heads: 3, mlp_ratio: 4 },
            augment: AugmentConfig { crop_padding: 0, flip: false, color_jitter: 0.0 },
            ..Self::default_preset()
        }
    }
}

impl PretrainConfig {
    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.images.div_ceil(self.batch)
    }

    /// The geometry, for `classes` classes.
    ///
    /// # Errors
    /// If the geometry is not supported.
    pub fn spec(&self, classes: usize) -> vitrim_vit::Result<VitSpec> {
        let ModelConfig { img_size, patch_size, dim, depth, heads, mlp_ratio } = self.model;
        // timm builds any geometry from this name and `model_args`.
        let mut spec = VitSpec::from_timm_name("vit_tiny_patch16_224")?.with_img_size([img_size, img_size]);
        (spec.patch_size, spec.dim, spec.depth, spec.num_classes) = (patch_size, dim, depth, classes);
        (spec.attention.heads, spec.mlp.hidden) = (heads, mlp_ratio * dim);
        spec.check()?;
        Ok(spec)
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
            ("label_smoothing", self.label_smoothing, 0.0, 0.99),
            ("mixup", self.mixup, 0.0, 100.0),
            ("token_labels", self.token_labels, 0.0, 100.0),
            ("crop_until", self.crop_until, 0.0, 1.0),
            ("patch_drop", self.patch_drop, 0.0, 0.95),
            ("augment.color_jitter", f64::from(self.augment.color_jitter), 0.0, 0.95),
        ])?;
        let moved = self.mixup > 0.0 || self.augment.flip || self.augment.crop_padding > 0;
        if self.token_labels > 0.0 && moved {
            return Err(
                "token_labels need mixup = 0, augment.flip = false and augment.crop_padding = 0".into()
            );
        }
        Ok(())
    }

    /// Learning rate of step `step`: linear warm-up, then a cosine.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let rates = [self.learning_rate, self.learning_rate_end];
        warmed_up_cosine(rates, self.warmup, step, self.steps())
    }

    /// Rows and columns of the window of patches at step `step`, for a `grid`.
    pub fn window_at(&self, step: usize, grid: [usize; 2]) -> [usize; 2] {
        if self.sees_whole_images(step) {
            return grid;
        }
        grid.map(|side| side.min(self.crop))
    }

    /// Number of patches, of `patches`, that step `step` uses, for a `draw` from (0, 1].
    pub fn patches_kept_at(&self, step: usize, patches: usize, draw: f64) -> usize {
        if !self.sees_whole_images(step) {
            return patches;
        }
        ((patches as f64 * (1.0 - self.patch_drop * draw)).round() as usize).clamp(1, patches)
    }

    fn sees_whole_images(&self, step: usize) -> bool {
        self.crop == 0 || step as f64 >= self.crop_until * self.steps() as f64
    }

    /// The augmentation of training images.
    pub fn augmentation(&self) -> Augment {
        let AugmentConfig { crop_padding, flip, color_jitter } = self.augment;
        Augment { crop_padding, flip, color_jitter, seed: self.seed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let config = PretrainConfig { images: 3_200, warmup: 0.1, ..PretrainConfig::scenes_preset() };
        let rates: Vec<f64> = (0..config.steps()).map(|step| config.learning_rate_at(step)).collect();
        assert_eq!(rates.len(), 100);
        assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
        assert!((rates[9] - 1e-3).abs() < 1e-9 && (rates[99] - 1e-5).abs() < 1e-9, "{rates:?}");
    }

    #[test]
    fn the_last_steps_see_whole_images() {
        let scenes = PretrainConfig::scenes_preset();
        let config = PretrainConfig { images: 100, batch: 1, crop_until: 0.75, patch_drop: 0.5, ..scenes };
        assert_eq!((config.window_at(74, [12, 12]), config.window_at(75, [12, 12])), ([8, 8], [12, 12]));
        assert_eq!((config.patches_kept_at(74, 64, 0.9), config.patches_kept_at(75, 144, 0.0)), (64, 144));
        assert_eq!(config.patches_kept_at(75, 144, 0.5), 108);
        let all = PretrainConfig { crop: 0, ..config };
        assert_eq!(all.window_at(0, [12, 12]), [12, 12]);
    }

    #[test]
    fn nonsense_is_named() {
        let config = PretrainConfig { crop_until: 1.5, ..PretrainConfig::scenes_preset() };
        assert_eq!(config.check().unwrap_err(), "crop_until = 1.5 must lie between 0 and 1");
        let config = PretrainConfig { batch: 0, ..PretrainConfig::scenes_preset() };
        assert_eq!(config.check().unwrap_err(), "batch must be at least 1");
    }
}
