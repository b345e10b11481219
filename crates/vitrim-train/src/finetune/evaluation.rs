//! Evaluation of the fine-tuned weights on held-out images.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, BatchShare, Loader, LoaderOptions, Order};
use vitrim_prune::divergence::divergences;
use vitrim_prune::{ImageKey, Pruned, run};
use vitrim_vit::{CpuBackbone, PixelBatch, cost};

use super::Finetuning;
use super::descent::Dense;
use crate::burn_vit::BurnVit;
use crate::device::host;
use crate::error::{Result, TrainError};
use crate::pretrain::learner::BackboneLearner;

/// Images per batch.
const BATCH: usize = 64;
/// Largest accepted difference between the training pass and the inference pass, see [`HeldOut::disagreement`].
const AGREEMENT: f32 = 1e-3;

/// Figures of the fine-tuned model on held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Top-1, percent; without labels, agreement with the teacher; `None` for a backbone without classes.
    pub top1: Option<f64>,
    /// Top-1 of the teacher, dense and with its original weights, percent; without labels, 100; `None` for a backbone
    /// without classes.
    pub teacher_top1: Option<f64>,
    /// Mean D to the teacher's answers, nats; for a backbone without classes, 1 - cos of the pooled features.
    pub divergence: f64,
    /// MACs per image as a share of the dense model's, the policy's own scoring included.
    pub cost: f64,
    /// Difference between the training pass and the inference pass on one batch: max |a - b| / max |b| of an image's
    /// answer, and of that the 90th percentile over the images.
    pub disagreement: f64,
}

impl Finetuning<'_> {
    /// Evaluates the current weights on held-out images, with the CPU executor.
    pub(super) fn evaluate(&self, learner: &BackboneLearner, teacher: &CpuBackbone) -> Result<HeldOut> {
        let student = CpuBackbone::new(&self.checkpoint.spec, &learner.student.vit.tensors())?;
        let pruner = self.pruner();
        let options = LoaderOptions {
            batch: BATCH,
            workers: self.workers,
            skip: 0,
            limit: Some(self.config.held_out_images),
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: None,
            share: BatchShare::ALL,
        };
        let (mut right, mut teacher_right, mut images) = (0, 0, 0usize);
        let (mut sum_of_divergences, mut macs, mut disagreement) = (0.0, 0.0, None);
        for batch in Loader::new(self.held_out, Order::Sequential, self.transform, options)? {
            let batch = batch?;
            let (keys, dense) = (batch.keys(), Dense::of(teacher, &batch)?.answer);
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

    /// The difference between `served`, the executor's answers to `batch`, and those of the training pass. Rounding
    /// can change decisions at the threshold, so that a tenth of the images may have other survivors.
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
}
