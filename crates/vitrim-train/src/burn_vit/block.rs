//! One transformer block.

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Tensor, s};
use vitrim_vit::Activation;

use super::layout::Layout;
use crate::activation::gelu;
use crate::linear::Linear;

/// `x + ls1 attention(norm1(x))`, then `x + ls2 mlp(norm2(x))`.
#[derive(Module, Debug)]
pub(super) struct Block {
    pub norm1: LayerNorm,
    pub attn: Attention,
    /// LayerScale, `[D]`; 1 where there is none.
    pub ls1: Option<Param<Tensor<1>>>,
    pub norm2: LayerNorm,
    pub mlp: Mlp,
    pub ls2: Option<Param<Tensor<1>>>,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub(super) struct Attention {
    /// D to 3D: queries, keys, values, each by head.
    pub qkv: Linear,
    /// Over each head's queries and over its keys.
    pub q_norm: Option<LayerNorm>,
    pub k_norm: Option<LayerNorm>,
    pub proj: Linear,
    pub heads: usize,
}

/// Two layers with an activation between.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
    #[module(skip)]
    pub activation: Activation,
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
        (x + scaled(y, &self.ls1), attended)
    }

    /// The second half: MLP and its residual.
    pub fn transform(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.norm2.forward(x.clone());
        x + scaled(self.mlp.forward(y), &self.ls2)
    }
}

/// `y: [T, D]` by channel.
fn scaled(y: Tensor<2>, gamma: &Option<Param<Tensor<1>>>) -> Tensor<2> {
    match gamma {
        Some(gamma) => y * gamma.val().unsqueeze::<2>(),
        None => y,
    }
}

impl Mlp {
    /// `x: [T, D]` to `[T, D]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.fc1.forward(x);
        let hidden = match self.activation {
            Activation::Gelu => gelu(hidden),
            Activation::SwiGlu => {
                let half = hidden.dims()[1] / 2;
                silu(hidden.clone().narrow(1, 0, half)) * hidden.narrow(1, half, half)
            }
        };
        self.fc2.forward(hidden)
    }
}

impl Attention {
    /// `x: [T, D]` to `[T, D]`; tokens of an image attend to its tokens that are alive.
    fn forward(&self, x: Tensor<2>, layout: &Layout) -> (Tensor<2>, Attended) {
        let [_, dim] = x.dims();
        let head_dim = dim / self.heads;
        let qkv = self.norm_heads(self.qkv.forward(x)); // [T, 3D]
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
        let mut probabilities = softmax(scores, 3);
        if let Some(weights) = layout.key_weights() {
            let weighted = probabilities * weights;
            probabilities = weighted.clone() / weighted.sum_dim(3);
        }
        let y = probabilities.clone().matmul(v).swap_dims(1, 2).reshape([batch, n, dim]);
        (self.proj.forward(layout.gather(y)), Attended { qkv, probabilities })
    }

    /// `qkv: [T, 3D]` with its queries and keys normed over each head, where there are norms.
    fn norm_heads(&self, qkv: Tensor<2>) -> Tensor<2> {
        let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) else { return qkv };
        let [tokens, width] = qkv.dims();
        let dim = width / 3;
        let part = |i: usize| qkv.clone().narrow(1, i * dim, dim);
        let normed = |norm: &LayerNorm, i: usize| {
            let heads = part(i).reshape([tokens * self.heads, dim / self.heads]);
            norm.forward(heads).reshape([tokens, dim])
        };
        Tensor::cat(vec![normed(q_norm, 0), normed(k_norm, 1), part(2)], 1)
    }
}
