//! Pooling by attention: a learned query attends to the final tokens.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::block::Mlp;
use super::token_layout::TokenLayout;
use crate::fused::softmax;
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// `y = proj(attention(q(latent), tokens))`, then `y + mlp(norm(y))` if there is an MLP.
#[derive(Module, Debug)]
pub(super) struct AttentionPool {
    /// The learned query, `[1, D]`.
    pub latent: Param<Tensor<2>>,
    pub q: Option<Linear>,
    /// Keys and values, D to 2D.
    pub kv: Linear,
    pub proj: Linear,
    pub norm: Option<LayerNorm>,
    pub mlp: Option<Mlp>,
    pub heads: usize,
    /// Whether prefix tokens are not pooled.
    pub skips_prefix: bool,
}

impl AttentionPool {
    /// `images: [B, n, D]`, the final tokens of `layout`, which start with `prefix` prefix tokens, to `[B, D]`.
    pub fn forward(&self, images: Tensor<3>, layout: &TokenLayout, prefix: usize) -> Tensor<2> {
        let first = if self.skips_prefix { prefix } else { 0 };
        let [batch, all, d] = images.dims();
        let (n, head_dim) = (all - first, d / self.heads);
        let tokens = images.narrow(1, first, n).reshape([batch * n, d]);
        let query = match &self.q {
            Some(q) => q.forward(self.latent.val()),
            None => self.latent.val(),
        };
        let kv = self.kv.forward(tokens).reshape([batch, n, 2, self.heads, head_dim]);
        let part = |i: usize| {
            let part = kv.clone().narrow(2, i, 1).reshape([batch, n, self.heads, head_dim]);
            part.swap_dims(1, 2) // [B, heads, n, d]
        };
        let query = query.mul_scalar((head_dim as f64).powf(-0.5)).reshape([1, self.heads, 1, head_dim]);
        let mut scores = (part(0) * query).sum_dim(3).swap_dims(2, 3); // [B, heads, 1, n]
        if let Some(dead) = layout.dead() {
            let dead = dead.narrow(3, first, n).expand([batch, self.heads, 1, n]);
            scores = scores.mask_fill(dead, f32::NEG_INFINITY);
        }
        let mut probabilities = softmax(scores);
        if let Some(sizes) = layout.sizes() {
            let weighted = probabilities * sizes.narrow(1, first, n).reshape([batch, 1, 1, n]);
            probabilities = weighted.clone() / weighted.sum_dim(3);
        }
        let attended = probabilities.matmul(part(1)).reshape([batch, d]);
        let y = self.proj.forward(attended);
        match (&self.norm, &self.mlp) {
            (Some(norm), Some(mlp)) => y.clone() + mlp.forward(norm.forward(y)),
            _ => y,
        }
    }
}
