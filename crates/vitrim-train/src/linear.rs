//! The linear layer that the perceptrons and the Vision Transformer share.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::fused;

/// `y = x W^T + b`, with PyTorch's layout of the weight, so that files need no transposition.
#[derive(Module, Debug)]
pub struct Linear {
    /// Weight, `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// Bias, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `x: [R, in]` to `[R, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        fused::linear(x, self.weight.val(), self.bias.as_ref().map(|bias| bias.val()))
    }
}
