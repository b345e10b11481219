//! Fine-tuning: the backbone learns to answer from the tokens that a frozen policy leaves it, as the dense model answers
//! from all of them (the second stage of the seed paper, arXiv 2503.23459, with distillation after Hinton et al., 2015),
//! and to see in an image what it saw (its pooled features, after FitNets: Romero et al., 2015).
//!
//! Tokens are removed while it learns, as they are when it runs; each evaluation checks that both forwards agree. Without a
//! policy, the same is done to the dense model: the control that says what of a gain is the policy's.
//!
//! A run folder holds `model/` (the best weights so far by held-out fidelity, in the layout of the checkpoint that it began with), `policy/` (the policy, for these
//! weights), `log.jsonl`, TensorBoard event files and `checkpoint.safetensors`.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};
use vitrim_prune::divergence::divergences;
use vitrim_prune::policy::BackboneId;
use vitrim_prune::{ImageKey, LearnedPruner, NoPruner, Policy, Pruned, Pruner, run};
use vitrim_vit::{Backbone, Checkpoint, CpuBackbone, Output, PixelBatch, Site, Taps, Tensors, Want, cost};

use crate::burn_vit::{BurnVit, PrunedOutput};
use crate::checkpoint;
use crate::checks::{positive, within};
use crate::device::{DeviceChoice, host};
use crate::epochs::Epochs;
use crate::error::{Result, TrainError};
use crate::pretrain::learner::Learner;
use crate::pretrain::weights::save_as;
use crate::pretrain::{AugmentConfig, WeightType};
use crate::replica::replica;
use crate::rewards::{divergences_of_answers, squared_distances};
use crate::run_log::RunLog;
use crate::schedule::warmed_up_cosine;
use crate::session::Outcome;

/// Images a batch when held-out images are classified.
const EVALUATION_BATCH: usize = 64;
/// How far the two forwards may be apart, see [`HeldOut::disagreement`].
const AGREEMENT: f32 = 1e-3;

/// Everything that shapes a fine-tuning run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Images to see, repetitions counted.
    pub images: usize,
    /// Images a step.
    pub batch: usize,
    /// Seed of everything that is random.
    pub seed: u64,
    /// AdamW's learning rate after the warm-up.
    pub learning_rate: f64,
    /// Learning rate of the last step; between the two it falls along a cosine.
    pub learning_rate_end: f64,
    /// Share of the steps over which the learning rate rises from 0.
    pub warmup: f64,
    /// Decoupled weight decay; biases, norms, class token and position embedding are spared.
    pub weight_decay: f64,
    /// Gradient norm clip.
    pub max_grad_norm: f64,
    /// Weight of the labels' cross-entropy beside D to the dense model's answers.
    pub label_weight: f64,
    /// Weight of the squared distance to the dense model's pooled features, in squared lengths of those, beside D: they
    /// say more of an image than its logits do.
    pub feature_weight: f64,
    /// Steps a log entry.
    pub log_every: usize,
    /// Log entries between two evaluations, each of which saves a checkpoint.
    pub evaluate_every: usize,
    /// Held-out images an evaluation.
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

    /// Checks what no type can say.
    ///
    /// # Errors
    /// One line that names the key and what it must be.
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
    fn learning_rate_at(&self, step: usize) -> f64 {
        let rates = [self.learning_rate, self.learning_rate_end];
        warmed_up_cosine(rates, self.warmup, step, self.steps())
    }
}

/// One fine-tuning run.
#[derive(Clone, Copy)]
pub struct Finetuning<'a> {
    /// The configuration.
    pub config: &'a FinetuneConfig,
    /// The weights to start from, those of the teacher, and the layout that the result keeps.
    pub checkpoint: &'a Checkpoint,
    /// The frozen policy, read out as it says; `None` for the dense control.
    pub policy: Option<&'a Policy>,
    /// Training images.
    pub train: &'a Dataset,
    /// Images that are never trained on.
    pub held_out: &'a Dataset,
    /// Image to pixels.
    pub transform: &'a Transform,
    /// Decoding threads; 0 for one a core.
    pub workers: usize,
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

/// The fine-tuned model on held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Top-1, percent; without labels, agreement with the teacher; `None` of a backbone without classes.
    pub top1: Option<f64>,
    /// Top-1 of the teacher, dense and as it was, percent; without labels, 100; `None` of a backbone without classes.
    pub teacher_top1: Option<f64>,
    /// Mean D to the teacher's answers, nats; of a backbone without classes, 1 - cos of the pooled features.
    pub divergence: f64,
    /// MACs of an image as a share of the dense model's, the policy's own included.
    pub cost: f64,
    /// How far the forward that learns and the one that serves are apart on one batch: max |a - b| / max |b| of an image's
    /// answer, and of that the 90th percentile of the images.
    pub disagreement: f64,
}

/// What a practitioner watches, once in `log_every` steps; means over them.
#[derive(Clone, Debug, Serialize)]
pub struct FinetuneLog {
    /// Steps done.
    pub step: usize,
    /// Images seen.
    pub images: usize,
    /// Images/s.
    pub images_per_s: f64,
    /// D to the teacher's answers, the features' distance and the labels' cross-entropy by their weights added.
    pub loss: f64,
    /// On held-out images, where it was measured.
    #[serde(flatten)]
    pub held_out: Option<HeldOut>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    config: FinetuneConfig,
    /// Fingerprint of the weights that it started from.
    start: String,
    /// Hash of the policy's weights and read-out; `None` for the dense control.
    policy: Option<String>,
    images: usize,
    at: Standing,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Standing {
    step: usize,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
    /// Held-out figures of the best weights so far; `None` before the first evaluation.
    best: Option<HeldOut>,
}

/// A step's gradient and loss.
struct Descent {
    gradients: GradientsParams,
    loss: f64,
}

/// Images ready for a step.
struct Samples<'a> {
    /// `[B, 3, H, W]`.
    pixels: &'a [f32],
    keys: Vec<ImageKey>,
    labels: &'a [Option<u32>],
    teacher: Dense,
}

/// What the teacher makes of a batch.
struct Dense {
    /// Logits, `[B, C]`; `features` of a backbone without a head.
    answer: Output,
    /// Pooled features, `[B, D]` or `[B, 2D]`.
    features: Output,
}

impl Dense {
    fn of(backbone: &CpuBackbone, batch: &Batch) -> Result<Self> {
        let spec = backbone.spec();
        let mut state = backbone.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        backbone.advance(&mut state, Site::end(spec), Taps::NONE)?;
        Ok(Dense {
            answer: backbone.finish(&state, Want::answer(spec))?,
            features: backbone.finish(&state, Want::Pooled)?,
        })
    }
}

/// Fine-tunes in `run.folder` until the images are seen or `stop` is set; goes on from the folder's checkpoint if there is
/// one. Returns the held-out figures of the best weights with how it ended.
///
/// # Errors
/// If the configuration is wrong, an image or file cannot be read or written, the two forwards
/// disagree, or the folder's checkpoint belongs to another run.
pub fn finetune(
    run: &Finetuning<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&FinetuneLog, usize),
) -> Result<(Outcome, Option<HeldOut>)> {
    let config = run.config;
    config.check().map_err(TrainError::Config)?;
    if run.checkpoint.spec.num_classes == 0 && config.label_weight > 0.0 {
        return Err(TrainError::Config("label_weight must be 0: the backbone has no classes".into()));
    }
    let device = run.device.device()?;
    let teacher = CpuBackbone::new(&run.checkpoint.spec, &run.checkpoint.tensors)?;
    let mut learner = Learner::with(
        run.checkpoint.spec.clone(),
        &run.checkpoint.tensors,
        None,
        config.weight_decay,
        &device,
    )?;
    fs::create_dir_all(run.folder).map_err(TrainError::file("create", run.folder))?;
    let path = run.folder.join(checkpoint::FILE);
    let mut saved = Saved {
        config: config.clone(),
        start: run.checkpoint.tensors.fingerprint(&run.checkpoint.spec)?,
        policy: run.policy.map(Policy::identity),
        images: run.train.len(),
        at: Standing { step: 0, epoch: 0, position: 0, best: None },
    };
    if path.is_file() {
        let (before, tensors) = checkpoint::load::<Saved>(&path)?;
        saved.at = before.at.clone();
        check_same(&path, &before, &saved)?;
        learner.restore(&tensors, &device)?;
    }
    let shards = if run.device == DeviceChoice::Cpu { run.threads } else { 1 };
    let mut log = RunLog::open(run.folder, saved.at.step / config.log_every)?;
    let from = (saved.at.epoch, saved.at.position);
    let mut epochs = Epochs::from(from, config.batch, |epoch, skip| run.batches(epoch, skip))?;
    let (mut steps, mut loss, mut grad_norm, mut started) = (0, 0.0, 0.0, Instant::now());
    while saved.at.step < config.steps() {
        if stop.load(Ordering::Relaxed) {
            checkpoint::save(&path, &saved, &learner.named())?;
            return Ok((Outcome::Interrupted, saved.at.best));
        }
        let batch = epochs.next_batch()?;
        let at = &mut saved.at;
        (at.epoch, at.position) = epochs.at();
        let samples = Samples {
            pixels: &batch.pixels,
            keys: keys(&batch),
            labels: &batch.labels,
            teacher: Dense::of(&teacher, &batch)?,
        };
        let descent = descend(run, &learner.student.vit, &samples, shards)?;
        let learning_rate = config.learning_rate_at(at.step);
        let (student, norm) =
            learner.adam.step(learner.student, descent.gradients, learning_rate, config.max_grad_norm);
        learner.student = student;
        at.step += 1;
        (steps, loss, grad_norm) = (steps + 1, loss + descent.loss, grad_norm + norm);
        let last = at.step == config.steps();
        if !at.step.is_multiple_of(config.log_every) && !last {
            continue;
        }
        let seconds = started.elapsed().as_secs_f64();
        let due = last || at.step.is_multiple_of(config.log_every * config.evaluate_every);
        let held_out = due.then(|| run.evaluate(&learner, &teacher)).transpose()?;
        let entry = FinetuneLog {
            step: at.step,
            images: (at.step * config.batch).min(config.images),
            images_per_s: (steps * config.batch) as f64 / seconds,
            loss: loss / steps as f64,
            held_out,
            learning_rate,
            grad_norm: grad_norm / steps as f64,
        };
        log.write(at.step, "finetune", &entry)?;
        progress(&entry, config.steps());
        if let Some(held_out) = held_out {
            if at.best.is_none_or(|best| held_out.divergence <= best.divergence) {
                at.best = Some(held_out);
                run.save(&learner.student.vit.tensors())?;
            }
            checkpoint::save(&path, &saved, &learner.named())?;
        }
        (steps, loss, grad_norm, started) = (0, 0.0, 0.0, Instant::now());
    }
    Ok((Outcome::Finished, saved.at.best))
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

impl Finetuning<'_> {
    fn batches(&self, epoch: u64, skip: usize) -> Result<Loader> {
        let AugmentConfig { crop_padding, flip, color_jitter } = self.config.augment;
        let augment = vitrim_data::Augment { crop_padding, flip, color_jitter, seed: self.config.seed };
        let options = LoaderOptions {
            batch: self.config.batch,
            workers: self.workers,
            skip,
            limit: None,
            on_bad_image: self.on_bad_image,
            augment: Some(augment),
            corruption: None,
        };
        let order = Order::Shuffled { seed: self.config.seed, epoch };
        Ok(Loader::new(self.train, order, self.transform, options)?)
    }

    fn pruner(&self) -> Box<dyn Pruner> {
        match self.policy {
            Some(policy) => Box::new(LearnedPruner::new(&self.checkpoint.spec, policy)),
            None => Box::new(NoPruner),
        }
    }

    /// The weights as they are on held-out images, by the CPU executor.
    fn evaluate(&self, learner: &Learner, teacher: &CpuBackbone) -> Result<HeldOut> {
        let student = CpuBackbone::new(&self.checkpoint.spec, &learner.student.vit.tensors())?;
        let pruner = self.pruner();
        let options = LoaderOptions {
            batch: EVALUATION_BATCH,
            workers: self.workers,
            skip: 0,
            limit: Some(self.config.held_out_images),
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: None,
        };
        let (mut right, mut teacher_right, mut images) = (0, 0, 0usize);
        let (mut sum_of_divergences, mut macs, mut disagreement) = (0.0, 0.0, None);
        for batch in Loader::new(self.held_out, Order::Sequential, self.transform, options)? {
            let batch = batch?;
            let (keys, dense) = (keys(&batch), Dense::of(teacher, &batch)?.answer);
            let pixels = PixelBatch::new(&batch.pixels, batch.len());
            let pruned = run(&student, pruner.as_ref(), pixels, &keys)?;
            if disagreement.is_none() {
                disagreement = Some(self.disagreement(&learner.student.vit, &batch, &keys, &pruned)?);
            }
            let classes = dense.argmax().into_iter().zip(pruned.answer.argmax());
            for ((of_teacher, found), label) in classes.zip(&batch.labels) {
                let label = label.map_or(of_teacher, |label| label as usize);
                right += usize::from(found == label);
                teacher_right += usize::from(of_teacher == label);
            }
            sum_of_divergences +=
                divergences(&self.checkpoint.spec, &dense, &pruned.answer).iter().sum::<f64>();
            macs += pruned.macs.iter().map(|macs| *macs as f64).sum::<f64>();
            images += batch.len();
        }
        let count = images.max(1) as f64;
        let share = |right: usize| {
            let classifies = self.checkpoint.spec.num_classes > 0;
            classifies.then_some(100.0 * right as f64 / count)
        };
        Ok(HeldOut {
            top1: share(right),
            teacher_top1: share(teacher_right),
            divergence: sum_of_divergences / count,
            cost: macs / count / cost::dense_macs(&self.checkpoint.spec) as f64,
            disagreement: f64::from(disagreement.unwrap_or(0.0)),
        })
    }

    /// How far `served`, the executor's answers to `batch`, are from those of the forward that learns. Decisions at the
    /// threshold may fall either way by rounding, so that a tenth of the images may differ in who survives.
    fn disagreement(&self, vit: &BurnVit, batch: &Batch, keys: &[ImageKey], served: &Pruned) -> Result<f32> {
        let learned = host(self.forward(&vit.valid(), &batch.pixels, keys)?.answer);
        let width = served.answer.width;
        let scale = served.answer.values.iter().fold(f32::MIN_POSITIVE, |m, v| v.abs().max(m));
        let far = |(a, b): (&[f32], &[f32])| {
            a.iter().zip(b).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
        };
        let pairs = learned.chunks_exact(width).zip(served.answer.values.chunks_exact(width));
        let mut apart: Vec<f32> = pairs.map(far).collect();
        apart.sort_by(f32::total_cmp);
        let typical = apart[(apart.len() * 9 / 10).min(apart.len() - 1)];
        if typical > AGREEMENT {
            return Err(TrainError::Disagreement(typical));
        }
        Ok(typical)
    }

    fn forward(&self, vit: &BurnVit, pixels: &[f32], keys: &[ImageKey]) -> Result<PrunedOutput> {
        vit.forward_pruned(pixels, keys, self.pruner().as_ref())
    }

    /// Writes `model/` and, with a policy, `policy/` for it.
    fn save(&self, tensors: &Tensors) -> Result<()> {
        let model = self.folder.join("model");
        save_as(&model, self.checkpoint, tensors, self.weight_type)?;
        let Some(policy) = self.policy else { return Ok(()) };
        let stored = Checkpoint::open(&model)?;
        // The record is of other weights.
        let backbone = BackboneId::of(&self.checkpoint.spec, &stored.tensors)?;
        let policy = Policy { backbone, calibration: None, ..policy.clone() };
        Ok(policy.save(&self.folder.join("policy"))?)
    }
}

/// The gradient of `vit` on `samples`, computed by `shards` threads side by side; the sum is taken in their order.
fn descend(run: &Finetuning<'_>, vit: &BurnVit, samples: &Samples<'_>, shards: usize) -> Result<Descent> {
    let batch = samples.keys.len();
    let each = batch.div_ceil(shards.clamp(1, batch));
    let parts: Vec<Range<usize>> =
        (0..batch).step_by(each).map(|start| start..(start + each).min(batch)).collect();
    let replicas: Vec<BurnVit> = parts.iter().map(|_| replica(vit, FloatDType::F32)).collect();
    let parts: Vec<Descent> = replicas
        .par_iter()
        .zip(parts)
        .map(|(replica, images)| part(run, replica, samples, images))
        .collect::<Result<_>>()?;
    let (mut sum, mut loss) = (GradientsAccumulator::new(), 0.0);
    for part in parts {
        sum.accumulate(vit, part.gradients);
        loss += part.loss;
    }
    Ok(Descent { gradients: sum.grads(), loss })
}

/// The share that `images` have in the batch's mean.
fn part(run: &Finetuning<'_>, vit: &BurnVit, samples: &Samples<'_>, images: Range<usize>) -> Result<Descent> {
    let (batch, count) = (samples.keys.len(), images.len());
    let device = vit.device();
    let per_image = samples.pixels.len() / batch;
    let pixels = &samples.pixels[images.start * per_image..images.end * per_image];
    let PrunedOutput { answer, features } = run.forward(vit, pixels, &samples.keys[images.clone()])?;
    let spec = &run.checkpoint.spec;
    let dense = rows(&samples.teacher.answer, &images, &device);
    let mut loss = divergences_of_answers(spec, dense, answer.clone()).sum();
    if run.config.feature_weight > 0.0 {
        let apart = squared_distances(rows(&samples.teacher.features, &images, &device), features);
        loss = loss + apart.sum().mul_scalar(run.config.feature_weight);
    }
    if run.config.label_weight > 0.0 {
        let classes = spec.num_classes;
        let mut targets = vec![0.0; count * classes];
        for (row, label) in targets.chunks_exact_mut(classes).zip(&samples.labels[images]) {
            let Some(label) = *label else { continue };
            let place = row.get_mut(label as usize).ok_or(TrainError::Label { label, classes })?;
            *place = run.config.label_weight as f32;
        }
        loss = loss - (matrix(targets, [count, classes], &device) * log_softmax(answer, 1)).sum();
    }
    let loss = loss.div_scalar(batch as f64);
    let value = f64::from(host(loss.clone())[0]);
    Ok(Descent { gradients: GradientsParams::from_grads(loss.backward(), vit), loss: value })
}

fn keys(batch: &Batch) -> Vec<ImageKey> {
    batch.indices.iter().map(|index| *index as ImageKey).collect()
}

/// The rows of `images` in `output`, as `[B, width]` on `device`.
fn rows(output: &Output, images: &Range<usize>, device: &Device) -> Tensor<2> {
    let width = output.width;
    matrix(output.values[images.start * width..images.end * width].to_vec(), [images.len(), width], device)
}

fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn check_same(path: &Path, before: &Saved, now: &Saved) -> Result<()> {
    let what = if before.config != now.config {
        "configuration"
    } else if before.start != now.start {
        "backbone"
    } else if before.policy != now.policy {
        "policy"
    } else if before.images != now.images {
        "training set"
    } else {
        return Ok(());
    };
    let reason = format!("belongs to a run with another {what}; give the same one, or another --out folder");
    Err(TrainError::Checkpoint { path: path.to_owned(), reason })
}
