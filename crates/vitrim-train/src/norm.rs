//! The norms of the Vision Transformer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::fused;

/// Row-wise `(x - mean) / sqrt(var + epsilon) * weight + bias`, population variance; without a shift RMSNorm,
/// `x / sqrt(mean(x^2) + epsilon) * weight`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[D]`; RMSNorm has none.
    pub bias: Option<Param<Tensor<1>>>,
    /// Epsilon, which is added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl LayerNorm {
    /// `x: [R, D]` to `[R, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let Some(bias) = &self.bias else {
            let scale = (x.clone().square().mean_dim(1) + self.epsilon).sqrt();
            return x / scale * self.weight.val().unsqueeze::<2>();
        };
        fused::layer_norm(x, self.weight.val(), bias.val(), self.epsilon)
    }
}
