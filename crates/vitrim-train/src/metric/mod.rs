//! A learned metric for merging (DTEM: Lee and Hong, NeurIPS 2024): the rival of the game that learns by gradients.
//!
//! Beside each block of the frozen backbone, a linear layer says which tokens are alike. It is learned through a gradual
//! merging ([`BurnVit::forward_softly`]), with numbers of merged tokens that are drawn anew for each step, so that one metric
//! serves every cost; the loss is D to the dense model's answers. In inference tokens merge as in ToMe.
//!
//! It starts from the mean keys before any norm or rotation, and so from ToMe where keys have neither, where the published code starts from random layers; unlabelled images are
//! enough, where the published code uses labels.
//!
//! A run folder holds `policy/`, besides the files of `run`.

mod config;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vitrim_data::{Augment, Batch, Dataset, OnBadImage, Transform};
use vitrim_prune::policy::{BackboneId, MetricHeads, Recipe};
use vitrim_prune::{AnyPolicy, MethodPolicy};
use vitrim_random::uniform;
use vitrim_ranks::Ranks;
use vitrim_vit::{Backbone, CpuBackbone, Output, PixelBatch, Tensors, Want};

pub use config::MetricConfig;

use crate::adam::{ModuleAdam, NamedTensor, find};
use crate::burn_vit::{BurnVit, Metric, merging_blocks};
use crate::device::{DeviceChoice, host};
use crate::division::{Division, IMAGES, Place};
use crate::error::{Result, TrainError};
use crate::rewards::divergences_of_answers;
use crate::run::{self, EpochPosition, Feed, Header, Outcome, Resumable, RunEvent, RunFolder};

/// Adam's epsilon.
const ADAM_EPS: f32 = 1e-8;

/// One training of a metric.
#[derive(Clone, Copy)]
pub struct MetricTraining<'a> {
    /// The configuration.
    pub config: &'a MetricConfig,
    /// The frozen backbone, which gives the dense answers.
    pub backbone: &'a CpuBackbone,
    /// Its weights.
    pub tensors: &'a Tensors,
    /// What it is.
    pub id: &'a BackboneId,
    /// Training images.
    pub train: &'a Dataset,
    /// Preprocessing: from an image to pixels.
    pub transform: &'a Transform,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
    /// Device of the training.
    pub device: DeviceChoice,
    /// The ranks that share the work.
    pub ranks: &'a Ranks,
    /// The run folder.
    pub folder: &'a RunFolder,
}

/// The metrics of `log_every` steps, as means.
#[derive(Clone, Debug, Serialize)]
pub struct MetricLog {
    /// Steps done.
    pub step: usize,
    /// Images trained on.
    pub images: usize,
    /// Images/s.
    pub images_per_s: f64,
    /// D to the dense model's answers, of the gradual merging.
    pub divergence: f64,
    /// Tokens merged in each block.
    pub removed: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    config: MetricConfig,
    backbone: BackboneId,
    images: usize,
    step: usize,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
}

impl Header for Saved {
    fn steps_done(&self) -> usize {
        self.step
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.config != other.config {
            Some("configuration")
        } else if self.backbone != other.backbone {
            Some("backbone")
        } else if self.images != other.images {
            Some("training set")
        } else {
            None
        }
    }
}

/// Trains a metric in `run.folder` until all images are done or `stop` is set; continues from the folder's checkpoint if there
/// is one.
///
/// # Errors
/// If the configuration is invalid or does not fit the backbone ([`MetricConfig::check`]), an image or file cannot be read or
/// written, a loss is no number, or the folder's checkpoint belongs to another run.
pub fn train_metric(
    run: &MetricTraining<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&MetricLog, usize),
) -> Result<Outcome> {
    let (config, spec) = (run.config, run.backbone.spec());
    config.check(spec)?;
    let device = run.device.device()?;
    let vit = BurnVit::new(spec, run.tensors, &device.clone().autodiff())?.no_grad();
    let division = Division::new(config.batch, IMAGES, &device, run.ranks);
    let feed = Feed {
        dataset: run.train,
        transform: run.transform,
        augment: Some(Augment { crop_padding: 0, flip: config.flip, color_jitter: 0.0, seed: config.seed }),
        seed: config.seed,
        batch: config.batch,
        workers: run.workers,
        on_bad_image: run.on_bad_image,
        share: division.own(),
        ranks: run.ranks,
    };
    let start = vit.key_metric(config.parts);
    let learned = start.first(merging_blocks(spec));
    let mut training = Training {
        run: *run,
        metric: Metric::new(&learned, &device.autodiff()),
        shapes: learned.tensor_shapes(),
        start,
        vit,
        adam: ModuleAdam::new(ADAM_EPS),
        division,
        step: 0,
        sums: Sums::default(),
    };
    run::execute(&mut training, &[feed], run.folder, stop, &mut |event| {
        if let RunEvent::Entry(entry, steps) = event {
            progress(entry, steps);
        }
    })
}

/// Steps that the run in `folder` has saved; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn steps_done(folder: &Path) -> Result<Option<usize>> {
    run::steps_done::<Saved>(folder)
}

/// A run in memory.
struct Training<'a> {
    run: MetricTraining<'a>,
    /// The backbone, without gradients of its own.
    vit: BurnVit,
    /// The metric before the training, of all blocks.
    start: MetricHeads,
    /// The metric of the blocks in which merging changes the answer.
    metric: Metric,
    /// Names and shapes of its tensors.
    shapes: Vec<(String, Vec<usize>)>,
    adam: ModuleAdam,
    division: Division,
    step: usize,
    sums: Sums,
}

/// Sums over the steps since the last log entry.
#[derive(Default)]
struct Sums {
    steps: usize,
    divergence: f64,
    removed: f64,
    grad_norm: f64,
}

/// This rank's images of a step.
struct Samples<'a> {
    /// Pixels, `[B, 3, H, W]`.
    pixels: &'a [f32],
    /// The dense model's answers, `[B, C]`.
    dense: Output,
    place: Place,
    /// Tokens that merge in each block.
    removed: usize,
}

impl Resumable for Training<'_> {
    type Header = Saved;
    type Entry = MetricLog;
    const TAG: &'static str = "metric";

    fn steps(&self) -> usize {
        self.run.config.steps()
    }

    fn steps_done(&self) -> usize {
        self.step
    }

    fn log_every(&self) -> usize {
        self.run.config.log_every
    }

    fn header(&self, at: &[EpochPosition]) -> Saved {
        Saved {
            config: self.run.config.clone(),
            backbone: self.run.id.clone(),
            images: self.run.train.len(),
            step: self.step,
            epoch: at[0].epoch,
            position: at[0].done,
        }
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        let values = self.metric.weights().into_iter().flat_map(|(weight, bias)| [weight, bias]);
        let named = self.shapes.iter().zip(values);
        let mut named: Vec<NamedTensor> =
            named.map(|((name, shape), values)| (name.clone(), shape.clone(), values)).collect();
        named.extend(self.adam.named("adam", &self.shapes));
        named
    }

    fn restore(&mut self, saved: Saved, tensors: &[NamedTensor]) -> Result<Vec<EpochPosition>> {
        let values = self.shapes.iter().map(|(name, shape)| Ok(find(tensors, name, shape)?.to_vec()));
        let values = values.collect::<Result<Vec<_>>>()?;
        let layers = values.chunks_exact(2).map(|layer| (layer[0].clone(), layer[1].clone())).collect();
        let heads = MetricHeads { layers, dim: self.start.dim, width: self.start.width };
        let device = self.run.device.device()?;
        self.metric = Metric::new(&heads, &device.clone().autodiff());
        self.adam.restore("adam", &self.shapes, tensors, &device)?;
        self.step = saved.step;
        Ok(vec![EpochPosition { epoch: saved.epoch, done: saved.position }])
    }

    fn step(&mut self, batch: &Batch, since: Instant) -> Result<Option<MetricLog>> {
        let config = self.run.config;
        let samples = Samples {
            pixels: &batch.pixels,
            dense: self.dense(batch)?,
            place: self.division.place(batch.len())?,
            removed: self.removed(),
        };
        let (gradients, divergence) = self.descend(&samples)?;
        let learning_rate = config.learning_rate_at(self.step);
        let (metric, grad_norm) =
            self.adam.step(self.metric.clone(), gradients, learning_rate, config.max_grad_norm);
        self.metric = metric;
        self.step += 1;
        if !(divergence.is_finite() && grad_norm.is_finite()) {
            return Err(TrainError::NotFinite(self.step));
        }
        self.sums.steps += 1;
        self.sums.divergence += divergence;
        self.sums.removed += samples.removed as f64;
        self.sums.grad_norm += grad_norm;
        if !self.step.is_multiple_of(config.log_every) && self.step != config.steps() {
            return Ok(None);
        }
        let seconds = since.elapsed().as_secs_f64();
        let Sums { steps, divergence, removed, grad_norm } = std::mem::take(&mut self.sums);
        let mean = |sum: f64| sum / steps as f64;
        Ok(Some(MetricLog {
            step: self.step,
            images: (self.step * config.batch).min(config.images),
            images_per_s: (steps * config.batch) as f64 / seconds,
            divergence: mean(divergence),
            removed: mean(removed),
            learning_rate,
            grad_norm: mean(grad_norm),
        }))
    }

    fn is_due(&self, _: &MetricLog) -> bool {
        true
    }

    fn publish(&mut self, folder: &Path) -> Result<()> {
        let mut heads = self.start.clone();
        let learned = self.metric.weights();
        heads.layers.splice(..learned.len(), learned);
        let policy = MethodPolicy::of(self.run.id, Recipe::Metric(heads));
        Ok(AnyPolicy::Method(policy).save(&folder.join("policy"))?)
    }
}

impl Training<'_> {
    /// How many tokens merge in each block in the next step: 1 to the largest number, all equally likely.
    fn removed(&self) -> usize {
        let (config, spec) = (self.run.config, self.run.backbone.spec());
        let most = match config.most_removed {
            0 => spec.num_patches().saturating_sub(1) / spec.depth,
            most => most.min(spec.num_patches() / 2),
        };
        let most = most.max(1);
        1 + ((uniform(&[config.seed, self.step as u64]) * most as f64) as usize).min(most - 1)
    }

    /// The dense model's answers to `batch`.
    fn dense(&self, batch: &Batch) -> Result<Output> {
        if batch.is_empty() {
            return Ok(Output { values: Vec::new(), width: 1 });
        }
        let backbone = self.run.backbone;
        let mut state = backbone.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        backbone.advance_to_answer(&mut state)?;
        Ok(backbone.finish(&state, Want::answer(backbone.spec()))?)
    }

    /// The gradient of the metric on the batch of all ranks, and D; `samples` are this rank's.
    fn descend(&self, samples: &Samples<'_>) -> Result<(GradientsParams, f64)> {
        let whole = samples.place.whole;
        let part = |metric: &Metric, images: Range<usize>| {
            let (gradients, divergence) = self.part(metric, samples, samples.place.among_own(images))?;
            Ok((Some(gradients), divergence))
        };
        let (gradients, divergences) = self.division.sum(&self.metric, whole, FloatDType::F32, part)?;
        Ok((gradients.ok_or(TrainError::NoImages)?, divergences.into_iter().sum()))
    }

    /// The contribution of `images`, of the samples, to the batch's mean.
    fn part(
        &self,
        metric: &Metric,
        samples: &Samples<'_>,
        images: Range<usize>,
    ) -> Result<(GradientsParams, f64)> {
        let (count, spec, device) = (images.len(), self.run.backbone.spec(), self.vit.device());
        let per_image = 3 * spec.img_size[0] * spec.img_size[1];
        let pixels = &samples.pixels[images.start * per_image..images.end * per_image];
        let softness = self.run.config.softness();
        let answer = self.vit.forward_softly(pixels, count, metric, samples.removed, softness);
        let dense = rows(&samples.dense, images, &device);
        let loss = divergences_of_answers(spec, dense, answer).sum();
        let loss = loss.div_scalar(samples.place.whole as f64);
        let value = f64::from(host(loss.clone())[0]);
        Ok((GradientsParams::from_grads(loss.backward(), metric), value))
    }
}

/// The rows of `images` in `output`, as `[B, width]` on `device`.
fn rows(output: &Output, images: Range<usize>, device: &Device) -> Tensor<2> {
    let (width, count) = (output.width, images.len());
    let values = output.values[images.start * width..images.end * width].to_vec();
    Tensor::from_data(TensorData::new(values, [count, width]), device)
}
