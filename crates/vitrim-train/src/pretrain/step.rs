//! One step of gradient descent.

use std::ops::Range;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use vitrim_kernels::argmax;

use crate::burn_vit::BurnVit;
use crate::division::{Division, widened};
use crate::error::{Result, TrainError};
use crate::linear::Linear;

/// The backbone, and a head that is needed for training only.
#[derive(Module, Debug)]
pub struct Student {
    /// The backbone.
    pub vit: BurnVit,
    /// Linear layer from a patch token to the classes and "no object", if tokens have labels.
    pub token_head: Option<Linear>,
}

/// A batch prepared for a step.
pub struct Samples {
    /// Pixels, `[B, 3, H, W]`.
    pub pixels: Vec<f32>,
    /// Shape of one image, `[3, H, W]`.
    pub shape: [usize; 3],
    /// Target distributions, `[B, C]`.
    pub targets: Vec<f32>,
    /// Grid positions of the patches that are used, ascending, `[B, M]`.
    pub patches: Vec<usize>,
    /// Labels of these patches.
    pub tokens: Option<TokenTargets>,
}

/// Labels of patch tokens.
pub struct TokenTargets {
    /// Weighted one-hot targets, `[B, M, C + 1]`; the last class is "no object". The weights include the weight of
    /// the term, and are sums over the batch.
    pub values: Vec<f32>,
}

/// A gradient with its loss and accuracy.
pub struct Descent {
    /// Gradient of the mean loss over the batch.
    pub gradients: GradientsParams,
    /// Mean cross-entropy against the targets, plus that of the patch tokens, nats.
    pub loss: f64,
    /// Number of images whose largest logit is at their largest target.
    pub right: usize,
}

impl Samples {
    /// B, the number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.shape.iter().product::<usize>()
    }
}

/// The gradient of `student` on `samples`, which all ranks have, with blocks in `dtype`.
pub fn descend(
    student: &Student,
    samples: &Samples,
    division: &Division,
    dtype: FloatDType,
    device: &Device,
) -> Result<Descent> {
    let (gradients, parts) = division.sum(student, samples.len(), dtype, |replica, images| {
        let Descent { gradients, loss, right } = part(replica, samples, images, dtype, device);
        Ok((Some(gradients), (loss, right)))
    })?;
    Ok(Descent {
        gradients: gradients.ok_or(TrainError::NoImages)?,
        loss: parts.iter().map(|(loss, _)| loss).sum(),
        right: parts.iter().map(|(_, right)| right).sum(),
    })
}

/// The contribution of `images` to the batch's mean.
fn part(
    student: &Student,
    samples: &Samples,
    images: Range<usize>,
    dtype: FloatDType,
    device: &Device,
) -> Descent {
    let (batch, count) = (samples.len(), images.len());
    fn slice<'a, T>(values: &'a [T], batch: usize, images: &Range<usize>) -> &'a [T] {
        let each = values.len() / batch;
        &values[images.start * each..images.end * each]
    }
    let [channels, height, width] = samples.shape;
    let pixels = slice(&samples.pixels, batch, &images).to_vec();
    let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [count, channels, height, width]), device);
    let targets = slice(&samples.targets, batch, &images);
    let classes = targets.len() / count;
    let target = Tensor::<2>::from_data(TensorData::new(targets.to_vec(), [count, classes]), device);

    let output = student.vit.forward_patches(pixels.cast(dtype), slice(&samples.patches, batch, &images));
    let logits = output.logits.cast(FloatDType::F32);
    let found: Vec<f32> = logits.clone().try_into_vec_as().expect("the device gives logits up as f32");
    let mut loss = -(target * log_softmax(logits, 1)).sum().div_scalar(batch as f64);
    if let (Some(head), Some(tokens)) = (&student.token_head, &samples.tokens) {
        let values = slice(&tokens.values, batch, &images).to_vec();
        let target = Tensor::<2>::from_data(
            TensorData::new(values, [output.patch_tokens.dims()[0], classes + 1]),
            device,
        );
        let logits = head.forward(output.patch_tokens).cast(FloatDType::F32);
        loss = loss - (target * log_softmax(logits, 1)).sum();
    }
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let gradients = GradientsParams::from_grads(loss.backward(), student);
    let right = found.chunks_exact(classes).zip(targets.chunks_exact(classes));
    Descent {
        gradients: widened(student, gradients),
        loss: value,
        right: right.filter(|(logits, target)| argmax(logits) == argmax(target)).count(),
    }
}
