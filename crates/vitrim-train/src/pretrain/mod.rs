//! A backbone from scratch: AdamW on cross-entropy, the cosine and the augmentations that ViTs are
//! trained with (DeiT: Touvron et al., 2021), written in timm's Hub layout.
//!
//! A run folder holds `model/` (the best weights so far by held-out accuracy), `log.jsonl`, TensorBoard
//! event files and `checkpoint.safetensors`.

mod config;
pub(crate) mod learner;
pub(crate) mod step;
pub(crate) mod weights;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Device, FloatDType};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Site, Taps, Tensors, VitSpec, Want};

pub use config::{AugmentConfig, ModelConfig, PretrainConfig};
pub use weights::{WeightType, initial_weights, save_as, save_backbone};

use crate::checkpoint;
use crate::device::DeviceChoice;
use crate::epochs::Epochs;
use crate::error::{Result, TrainError};
use crate::random::SplitMix64;
use crate::run_log::RunLog;
use crate::session::Outcome;
use learner::Learner;
use step::{Samples, TokenTargets, descend};

/// Images a batch when held-out images are classified.
const EVALUATION_BATCH: usize = 64;
/// Share of a patch that an object covers at least where the patch token is to name its class.
const COVERED: f32 = 0.2;

/// One pre-training run.
#[derive(Clone, Copy)]
pub struct Pretraining<'a> {
    /// The configuration.
    pub config: &'a PretrainConfig,
    /// Labelled training images.
    pub train: &'a Dataset,
    /// Labelled images that are never trained on.
    pub held_out: &'a Dataset,
    /// Image to pixels.
    pub transform: &'a Transform,
    /// Decoding threads; 0 for one a core.
    pub workers: usize,
    /// Weights to start from instead of random ones.
    pub init: Option<&'a Tensors>,
    /// What a corrupt image does.
    pub on_bad_image: OnBadImage,
    /// Where the backbone is trained.
    pub device: DeviceChoice,
    /// Threads that share a batch on the CPU; another number rounds sums differently.
    pub threads: usize,
    /// Type of the weights in `model/`.
    pub weight_type: WeightType,
    /// The run folder.
    pub folder: &'a Path,
}

/// What a practitioner watches, once in `log_every` steps; means over them.
#[derive(Clone, Debug, Serialize)]
pub struct PretrainLog {
    /// Steps done.
    pub step: usize,
    /// Images seen.
    pub images: usize,
    /// Images/s.
    pub images_per_s: f64,
    /// Cross-entropy against the smoothed, mixed targets, the tokens' added, nats.
    pub loss: f64,
    /// Top-1 on augmented training images that lack patches, percent.
    pub train_top1: f64,
    /// Top-1 on the held-out images, percent; where it was measured.
    pub held_out_top1: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    config: PretrainConfig,
    classes: usize,
    images: usize,
    /// [`Tensors::fingerprint`] of the weights that it started from, where they were given.
    #[serde(default)]
    init: Option<String>,
    at: Standing,
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    step: usize,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
    /// Best held-out top-1, percent.
    best: f64,
}

/// Means over the steps of a log entry.
#[derive(Default)]
struct Sums {
    steps: usize,
    images: usize,
    loss: f64,
    right: usize,
    grad_norm: f64,
}

/// Trains in `run.folder` until the images are seen or `stop` is set; goes on from the folder's checkpoint
/// if there is one. Returns the best held-out top-1, percent, with how it ended.
///
/// # Errors
/// If the configuration is wrong, an image or file cannot be read or written, a label is missing, or the
/// folder's checkpoint belongs to another run.
pub fn pretrain(
    run: &Pretraining<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&PretrainLog, usize),
) -> Result<(Outcome, f64)> {
    let config = run.config;
    config.check().map_err(TrainError::Config)?;
    let classes = run.train.class_names().len();
    if classes < 2 || !run.train.is_labelled() {
        return Err(TrainError::Config("pre-training needs labelled images of at least two classes".into()));
    }
    let device = run.device.device()?;
    let mut learner = learner(run, classes, &device)?;
    let init = run.init.map(|tensors| tensors.fingerprint(&learner.spec)).transpose()?;
    let dtype =
        match config.bf16 && run.device == DeviceChoice::Gpu && device.supports_dtype(FloatDType::BF16) {
            true => FloatDType::BF16,
            false => FloatDType::F32,
        };
    let shards = if run.device == DeviceChoice::Cpu { run.threads } else { 1 };
    fs::create_dir_all(run.folder).map_err(TrainError::file("create", run.folder))?;
    let path = run.folder.join(checkpoint::FILE);
    let mut at = Standing::default();
    if path.is_file() {
        let (saved, tensors) = checkpoint::load::<Saved>(&path)?;
        run.check_same(&path, &saved, classes, init.as_deref())?;
        learner.restore(&tensors, &device)?;
        at = saved.at;
    }
    let save = |learner: &Learner, at: &Standing| {
        let (config, init) = (config.clone(), init.clone());
        let saved = Saved { config, classes, images: run.train.len(), init, at: at.clone() };
        checkpoint::save(&path, &saved, &learner.named())
    };
    let mut log = RunLog::open(run.folder, at.step / config.log_every)?;
    let from = (at.epoch, at.position);
    let mut epochs = Epochs::from(from, config.batch, |epoch, skip| run.batches(epoch, skip))?;
    let (mut sums, mut started) = (Sums::default(), Instant::now());
    while at.step < config.steps() {
        if stop.load(Ordering::Relaxed) {
            save(&learner, &at)?;
            return Ok((Outcome::Interrupted, at.best));
        }
        let batch = epochs.next_batch()?;
        (at.epoch, at.position) = epochs.at();
        let samples = samples(&batch, run, at.step, &learner.spec)?;
        let descent = descend(&learner.student, &samples, shards, dtype, &device.clone().autodiff());
        let learning_rate = config.learning_rate_at(at.step);
        let (student, norm) =
            learner.adam.step(learner.student, descent.gradients, learning_rate, config.max_grad_norm);
        learner.student = student;
        at.step += 1;
        sums.steps += 1;
        sums.images += batch.len();
        sums.loss += descent.loss;
        sums.right += descent.right;
        sums.grad_norm += norm;
        let last = at.step == config.steps();
        if !at.step.is_multiple_of(config.log_every) && !last {
            continue;
        }
        let seconds = started.elapsed().as_secs_f64();
        let due = last || at.step.is_multiple_of(config.log_every * config.evaluate_every);
        let held_out_top1 = due.then(|| run.evaluate(&learner)).transpose()?;
        let entry = PretrainLog {
            step: at.step,
            images: (at.step * config.batch).min(config.images),
            images_per_s: sums.images as f64 / seconds,
            loss: sums.loss / sums.steps as f64,
            train_top1: 100.0 * sums.right as f64 / sums.images as f64,
            held_out_top1,
            learning_rate,
            grad_norm: sums.grad_norm / sums.steps as f64,
        };
        log.write(at.step, "pretrain", &entry)?;
        progress(&entry, config.steps());
        if let Some(top1) = held_out_top1 {
            if top1 >= at.best {
                at.best = top1;
                let (tensors, folder) = (learner.student.vit.tensors(), run.folder.join("model"));
                let names = run.train.class_names();
                save_backbone(
                    &folder,
                    &learner.spec,
                    &tensors,
                    run.transform.preprocess(),
                    names,
                    run.weight_type,
                )?;
            }
            save(&learner, &at)?;
        }
        (sums, started) = (Sums::default(), Instant::now());
    }
    Ok((Outcome::Finished, at.best))
}

/// Steps that the run in `folder` has saved; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn steps_done(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join(checkpoint::FILE);
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(checkpoint::load::<Saved>(&path)?.0.at.step))
}

impl Pretraining<'_> {
    fn batches(&self, epoch: u64, skip: usize) -> Result<Loader> {
        let options = LoaderOptions {
            batch: self.config.batch,
            workers: self.workers,
            skip,
            limit: None,
            on_bad_image: self.on_bad_image,
            augment: Some(self.config.augmentation()),
            corruption: None,
        };
        let order = Order::Shuffled { seed: self.config.seed, epoch };
        Ok(Loader::new(self.train, order, self.transform, options)?)
    }

    /// Top-1 on the held-out images, percent: by the CPU executor, which is faster than Burn there.
    fn evaluate(&self, learner: &Learner) -> Result<f64> {
        match self.device {
            DeviceChoice::Cpu => self.top1(&CpuBackbone::new(&learner.spec, &learner.student.vit.tensors())?),
            DeviceChoice::Gpu => self.top1(&learner.student.vit),
        }
    }

    fn top1<B: Backbone>(&self, backbone: &B) -> Result<f64> {
        let options = LoaderOptions {
            batch: EVALUATION_BATCH,
            workers: self.workers,
            skip: 0,
            limit: Some(self.config.held_out_images),
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: None,
        };
        let (mut right, mut images) = (0, 0usize);
        for batch in Loader::new(self.held_out, Order::Sequential, self.transform, options)? {
            let batch = batch?;
            let mut state = backbone.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
            backbone.advance(&mut state, Site::end(backbone.spec()), Taps::NONE)?;
            let found = backbone.finish(&state, Want::Logits)?.argmax();
            right +=
                found.iter().zip(&batch.labels).filter(|(f, l)| l.is_some_and(|l| l as usize == **f)).count();
            images += batch.len();
        }
        Ok(100.0 * right as f64 / images.max(1) as f64)
    }

    fn check_same(&self, path: &Path, saved: &Saved, classes: usize, init: Option<&str>) -> Result<()> {
        let what = if saved.config != *self.config {
            "configuration"
        } else if saved.init.as_deref() != init {
            "start"
        } else if saved.images != self.train.len() || saved.classes != classes {
            "training set"
        } else {
            return Ok(());
        };
        let reason =
            format!("belongs to a run with another {what}; give the same one, or another --out folder");
        Err(TrainError::Checkpoint { path: path.to_owned(), reason })
    }
}

/// Targets, mixing and patches of a batch: a function of seed, step and place in the batch.
fn samples(batch: &Batch, run: &Pretraining<'_>, step: usize, spec: &VitSpec) -> Result<Samples> {
    let config = run.config;
    let (count, classes) = (batch.len(), spec.num_classes);
    let key = config.seed ^ (step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = SplitMix64::new(key);

    let off = (config.label_smoothing / classes as f64) as f32;
    let mut targets = vec![off; count * classes];
    for (row, (label, name)) in targets.chunks_exact_mut(classes).zip(batch.labels.iter().zip(&batch.names)) {
        let label = label.ok_or_else(|| TrainError::NoLabel(name.clone()))?;
        let place = row.get_mut(label as usize).ok_or(TrainError::Label { label, classes })?;
        *place += 1.0 - config.label_smoothing as f32;
    }
    let mut pixels = batch.pixels.clone();
    if config.mixup > 0.0 {
        let beta =
            Beta::new(config.mixup, config.mixup).map_err(|e| TrainError::Config(format!("mixup: {e}")))?;
        let share = beta.sample(&mut StdRng::seed_from_u64(key)) as f32;
        mix(&mut pixels, count, share);
        mix(&mut targets, count, share);
    }
    let window = config.window_at(step, spec.grid());
    let kept = config.patches_kept_at(step, window[0] * window[1], random.uniform());
    let mut patches = Vec::with_capacity(count * kept);
    for index in &batch.indices {
        let object = run.train.object_shares(*index, spec.patch_size);
        let seen = crop(spec.grid(), window, object.as_deref(), &mut random);
        patches.extend(choose(seen, kept, &mut random));
    }
    let tokens = (config.token_labels > 0.0 && run.train.knows_objects())
        .then(|| token_targets(batch, run, &patches, &targets, spec));
    Ok(Samples { tokens, pixels, shape: [batch.shape[1], batch.shape[2], batch.shape[3]], targets, patches })
}

/// Grid positions of a random `window` of rows and columns that holds the patches which the `object` covers,
/// or as many of them as fit.
fn crop(grid: [usize; 2], window: [usize; 2], object: Option<&[f32]>, random: &mut SplitMix64) -> Vec<usize> {
    let covered = |axis: usize| {
        let all = object.unwrap_or_default().iter().enumerate().filter(|(_, share)| **share > 0.0);
        let places: Vec<usize> =
            all.map(|(p, _)| if axis == 0 { p / grid[1] } else { p % grid[1] }).collect();
        let last = grid[axis] - 1;
        (places.iter().min().copied().unwrap_or(last), places.iter().max().copied().unwrap_or(0))
    };
    let start = [0, 1].map(|axis| {
        let (first, last) = covered(axis);
        let highest = grid[axis] - window[axis];
        let (a, b) = ((last + 1).saturating_sub(window[axis]).min(highest), first.min(highest));
        let (low, high) = (a.min(b), a.max(b));
        low + (random.next_u64() % (high - low + 1) as u64) as usize
    });
    let rows = start[0]..start[0] + window[0];
    rows.flat_map(|row| (start[1]..start[1] + window[1]).map(move |column| row * grid[1] + column)).collect()
}

/// `kept` of the `patches`, every set as likely as any other, in their order.
fn choose(mut patches: Vec<usize>, kept: usize, random: &mut SplitMix64) -> Vec<usize> {
    random.shuffle(&mut patches);
    patches.truncate(kept);
    patches.sort_unstable();
    patches
}

/// Labels of the `patches: [B, M]` that are seen: the image's class where the object covers enough of a patch,
/// "no object" where it covers none, nothing between. Patches with and without an object have the same
/// weight in all.
fn token_targets(
    batch: &Batch,
    run: &Pretraining<'_>,
    patches: &[usize],
    targets: &[f32],
    spec: &VitSpec,
) -> TokenTargets {
    let (count, classes) = (batch.len(), spec.num_classes);
    let seen = patches.len() / count;
    let covered: Vec<f32> = batch
        .indices
        .iter()
        .zip(patches.chunks_exact(seen))
        .flat_map(|(index, patches)| {
            let shares = run.train.object_shares(*index, spec.patch_size).unwrap_or_default();
            patches.iter().map(move |p| shares.get(*p).copied().unwrap_or(0.0)).collect::<Vec<_>>()
        })
        .collect();
    let (on, off) = (|share: f32| share >= COVERED, |share: f32| share == 0.0);
    let weight = |count: usize| (0.5 * run.config.token_labels / count.max(1) as f64) as f32;
    let on_weight = weight(covered.iter().filter(|share| on(**share)).count());
    let off_weight = weight(covered.iter().filter(|share| off(**share)).count());
    let mut values = vec![0.0; covered.len() * (classes + 1)];
    for (i, (row, share)) in values.chunks_exact_mut(classes + 1).zip(&covered).enumerate() {
        if on(*share) {
            let image = &targets[i / seen * classes..][..classes];
            row.iter_mut().zip(image).for_each(|(value, target)| *value = on_weight * target);
        } else if off(*share) {
            row[classes] = off_weight;
        }
    }
    TokenTargets { values }
}

/// Row b of the `count` rows becomes `share` of itself and the rest of the row at the mirrored place (as
/// timm's batch mode does).
fn mix(values: &mut [f32], count: usize, share: f32) {
    let other: Vec<f32> = values.chunks_exact(values.len() / count).rev().flatten().copied().collect();
    values.iter_mut().zip(other).for_each(|(a, b)| *a = share * *a + (1.0 - share) * b);
}

/// The learner of `run`, whose data set has `classes` classes.
fn learner(run: &Pretraining<'_>, classes: usize, device: &Device) -> Result<Learner> {
    let config = run.config;
    let spec = config.spec(classes)?;
    let drawn = run.init.is_none().then(|| initial_weights(&spec, config.seed));
    let tensors = run.init.or(drawn.as_ref()).expect("given or drawn");
    let token_head = (run.train.knows_objects() && config.token_labels > 0.0)
        .then(|| (vec![0.0; (classes + 1) * spec.dim], vec![0.0; classes + 1]));
    Learner::with(spec, tensors, token_head, config.weight_decay, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_object_as_far_as_it_fits() {
        let (grid, window) = ([12, 10], [5, 4]);
        let mut random = SplitMix64::new(3);
        let mut starts = std::collections::HashSet::new();
        for round in 0..400 {
            // An object of 3 x 2 patches, somewhere.
            let (top, left) = (round % 10, round % 9);
            let mut object = vec![0.0; 120];
            for (row, column) in (top..top + 3).flat_map(|row| [(row, left), (row, left + 1)]) {
                object[row * 10 + column] = 0.5;
            }
            let patches = crop(grid, window, Some(&object), &mut random);
            assert_eq!(patches.len(), 20);
            assert!(patches.is_sorted_by(|a, b| a < b) && patches[19] < 120);
            assert_eq!(patches[19] - patches[0], 4 * 10 + 3, "a rectangle");
            let covered = object.iter().enumerate().filter(|(_, share)| **share > 0.0);
            assert!(covered.into_iter().all(|(p, _)| patches.contains(&p)), "{top} {left}");
            starts.insert(crop(grid, window, None, &mut random)[0]);
        }
        assert_eq!(starts.len(), 8 * 7, "without an object, a window may lie anywhere");
        // Larger than the window: the window lies within it.
        let patches = crop(grid, window, Some(&[1.0; 120]), &mut random);
        assert_eq!(patches.len(), 20);
        assert_eq!(crop(grid, grid, None, &mut random), (0..120).collect::<Vec<_>>());
    }

    #[test]
    fn chosen_patches_are_as_many_as_asked_for_and_each_as_likely() {
        let mut random = SplitMix64::new(5);
        let mut counts = [0; 12];
        for _ in 0..4_000 {
            let patches = choose((0..12).collect(), 3, &mut random);
            assert!(patches.len() == 3 && patches.is_sorted_by(|a, b| a < b), "{patches:?}");
            patches.iter().for_each(|p| counts[*p] += 1);
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}"); // 1,000 +- 27
        assert_eq!(choose(vec![4, 7, 9], 3, &mut random), [4, 7, 9]);
    }

    #[test]
    fn mixing_pairs_an_image_with_its_mirror() {
        let mut values = vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0];
        mix(&mut values, 3, 0.75);
        assert_eq!(values, [1.75, 1.75, 2.0, 2.0, 3.25, 3.25]);
    }
}
