//! The activation that the perceptrons and the Vision Transformer share.

use burn::tensor::{Device, Tensor, TensorData, activation};
use vitrim_kernels::gelu_tangent;

/// Exact GELU of `x: [R, W]`.
///
/// Flex computes erf one value at a time, and in the backward pass again: 40 % of a pre-training step once
/// activations have grown. On the CPU it is therefore given as its tangent, which has the same value and
/// gradient.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    let device = x.device();
    if device.clone().without_autodiff() != Device::flex() {
        return activation::gelu(x);
    }
    let shape = x.dims();
    let values: Vec<f32> = x.clone().without_autodiff().try_into_vec_as().expect("Flex gives f32 up");
    let (mut slope, mut offset) = (vec![0.0; values.len()], vec![0.0; values.len()]);
    gelu_tangent(&values, &mut slope, &mut offset);
    let constant = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), &device);
    x * constant(slope) + constant(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_and_gradient_are_gelus() {
        let device = Device::flex().autodiff();
        let values: Vec<f32> = (-40..40).map(|i| 0.15 * i as f32).collect();
        let leaf = || {
            let data = TensorData::new(values.clone(), [8, 10]);
            Tensor::<2>::from_data(data, &device).require_grad()
        };
        let (ours, theirs) = (leaf(), leaf());
        let near = |a: Tensor<2>, b: Tensor<2>, bound: f32| {
            let far = (a - b).abs().max().into_scalar::<f32>();
            assert!(far < bound, "{far}");
        };
        let (y, z) = (gelu(ours.clone()), activation::gelu(theirs.clone()));
        near(y.clone().without_autodiff(), z.clone().without_autodiff(), 2e-6);
        let (dy, dz) = (y.square().sum().backward(), z.square().sum().backward());
        near(ours.grad(&dy).unwrap(), theirs.grad(&dz).unwrap(), 1e-3);
    }
}
