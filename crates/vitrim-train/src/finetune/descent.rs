//! The gradient of one step: D to the teacher's answers, the distance to its features, the labels' cross-entropy.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use vitrim_data::Batch;
use vitrim_prune::ImageKey;
use vitrim_vit::{Backbone, CpuBackbone, Output, PixelBatch, Want};

use super::Finetuning;
use crate::burn_vit::{BurnVit, PrunedOutput};
use crate::device::host;
use crate::division::{Division, Place};
use crate::error::{Result, TrainError};
use crate::rewards::{divergences_of_answers, squared_distances};

/// Images prepared for a step.
pub(super) struct Samples<'a> {
    /// Pixels, `[B, 3, H, W]`.
    pub pixels: &'a [f32],
    pub keys: Vec<ImageKey>,
    pub labels: &'a [Option<u32>],
    pub teacher: Dense,
    /// Where they are in the batch of all ranks.
    pub place: Place,
}

/// The teacher's outputs for a batch.
pub(super) struct Dense {
    /// Logits, `[B, C]`; of a backbone without a head its embedding or `features`.
    pub answer: Output,
    /// Pooled features, `[B, D]` or `[B, 2D]`.
    pub features: Output,
}

impl Dense {
    pub fn of(backbone: &CpuBackbone, batch: &Batch) -> Result<Self> {
        let spec = backbone.spec();
        if batch.is_empty() {
            let none = || Output { values: Vec::new(), width: 1 };
            return Ok(Dense { answer: none(), features: none() });
        }
        let mut state = backbone.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        backbone.advance_to_answer(&mut state)?;
        Ok(Dense {
            answer: backbone.finish(&state, Want::answer(spec))?,
            features: backbone.finish(&state, Want::Pooled)?,
        })
    }
}

/// The gradient of `vit` on the batch of all ranks, and the loss; `samples` are this rank's.
pub(super) fn descend(
    run: &Finetuning<'_>,
    vit: &BurnVit,
    samples: &Samples<'_>,
    division: &Division,
) -> Result<(GradientsParams, f64)> {
    let (gradients, losses) =
        division.sum(vit, samples.place.whole, FloatDType::F32, |replica, images| {
            let (gradients, loss) = part(run, replica, samples, samples.place.among_own(images))?;
            Ok((Some(gradients), loss))
        })?;
    Ok((gradients.ok_or(TrainError::NoImages)?, losses.into_iter().sum()))
}

/// The contribution of `images`, of the samples, to the batch's mean.
fn part(
    run: &Finetuning<'_>,
    vit: &BurnVit,
    samples: &Samples<'_>,
    images: Range<usize>,
) -> Result<(GradientsParams, f64)> {
    let count = images.len();
    let device = vit.device();
    let per_image = samples.pixels.len() / samples.keys.len();
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
    let loss = loss.div_scalar(samples.place.whole as f64);
    let value = f64::from(host(loss.clone())[0]);
    Ok((GradientsParams::from_grads(loss.backward(), vit), value))
}

/// The rows of `images` in `output`, as `[B, width]` on `device`.
fn rows(output: &Output, images: &Range<usize>, device: &Device) -> Tensor<2> {
    let width = output.width;
    matrix(output.values[images.start * width..images.end * width].to_vec(), [images.len(), width], device)
}

fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
