//! The layer normalisation of the Vision Transformer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::fused;

/// Row-wise `(x - mean) / sqrt(var + epsilon) * weight + bias`, population variance.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[D]`.
    pub bias: Param<Tensor<1>>,
    /// Epsilon, which is added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl LayerNorm {
    /// `x: [R, D]` to `[R, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        fused::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}
