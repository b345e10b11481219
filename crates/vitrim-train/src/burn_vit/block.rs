//! One transformer block.

use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, s};

use super::layout::Layout;
use crate::activation::gelu;
use crate::linear::Linear;

/// `x + attention(norm1(x))`, then `x + mlp(norm2(x))`.
#[derive(Module, Debug)]
pub(super) struct Block {
    pub norm1: LayerNorm,
    pub attn: Attention,
    pub norm2: LayerNorm,
    pub mlp: Mlp,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub(super) struct Attention {
    /// D to 3D: queries, keys, values, each by head.
    pub qkv: Linear,
    pub proj: Linear,
    pub heads: usize,
}

/// Two layers with an exact GELU between.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
}

/// What one attention saw, for the taps.
pub(super) struct Attended {
    /// Queries, keys and values, `[T, 3D]`.
    pub qkv: Tensor<2>,
    /// Attention of each token (third axis) to each (last axis), `[B, heads, n, n]`.
    pub probabilities: Tensor<4>,
}

impl Block {
    /// `x: [T, D]` to `[T, D]`.
    pub fn forward(&self, x: Tensor<2>, layout: &Layout) -> Tensor<2> {
        let (x, _) = self.attend(x, layout);
        self.transform(x)
    }

    /// The first half: attention and its residual.
    pub fn attend(&self, x: Tensor<2>, layout: &Layout) -> (Tensor<2>, Attended) {
        let (y, attended) = self.attn.forward(self.norm1.forward(x.clone()), layout);
        (x + y, attended)
    }

    /// The second half: MLP and its residual.
    pub fn transform(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.norm2.forward(x.clone());
        x + self.mlp.fc2.forward(gelu(self.mlp.fc1.forward(y)))
    }
}

impl Attention {
    /// `x: [T, D]` to `[T, D]`; tokens of an image attend to its tokens that are alive.
    fn forward(&self, x: Tensor<2>, layout: &Layout) -> (Tensor<2>, Attended) {
        let [_, dim] = x.dims();
        let head_dim = dim / self.heads;
        let qkv = self.qkv.forward(x); // [T, 3D]
        let images = layout.spread(qkv.clone()); // [B, n, 3D]
        let [batch, n, _] = images.dims();
        let images = images.reshape([batch, n, 3, self.heads, head_dim]).permute([2, 0, 3, 1, 4]);
        let part = |i: usize| images.clone().slice(s![i..i + 1]).squeeze_dim::<4>(0); // [B, heads, n, d]
        let (q, k, v) = (part(0), part(1), part(2));

        let mut scores = q.mul_scalar((head_dim as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [B, heads, n, n]
        if let Some(bias) = layout.key_bias() {
            scores = scores + bias;
        }
        if let Some(dead) = layout.dead() {
            let dead = dead.expand([batch, self.heads, n, n]);
            scores = scores.mask_fill(dead, f32::NEG_INFINITY);
        }
        let probabilities = softmax(scores, 3);
        let y = probabilities.clone().matmul(v).swap_dims(1, 2).reshape([batch, n, dim]);
        (self.proj.forward(layout.gather(y)), Attended { qkv, probabilities })
    }
}
