//! One transformer block.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use vitrim_vit::{GridPlaces, MlpActivation};

use super::token_layout::TokenLayout;
use crate::fused::{self, gelu, softmax};
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// `x + ls1 attention(norm1(x))`, then `x + ls2 mlp(norm2(x))`.
#[derive(Module, Debug)]
pub(super) struct Block {
    pub norm1: LayerNorm,
    pub attn: Attention,
    /// LayerScale, `[D]`; `None` means 1.
    pub ls1: Option<Param<Tensor<1>>>,
    pub norm2: LayerNorm,
    pub mlp: Mlp,
    pub ls2: Option<Param<Tensor<1>>>,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub(super) struct Attention {
    /// Queries, keys and values, D to 3D, each head after head.
    pub qkv: Linear,
    /// Norm of each head's queries; `k_norm` is that of the keys.
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
    pub activation: MlpActivation,
}

/// Intermediate values of an attention, for the taps.
pub(super) struct Attended {
    /// Keys, `[T, D]`.
    pub keys: Tensor<2>,
    /// Values, `[T, D]`.
    pub values: Tensor<2>,
    /// Attention of each token (third axis) to each (last axis), `[B, heads, n, n]`.
    pub probabilities: Tensor<4>,
}

impl Block {
    /// `x: [T, D]` to `[T, D]`.
    pub fn forward(&self, x: Tensor<2>, layout: &TokenLayout) -> Tensor<2> {
        let y = self.attn.answer(self.norm1.forward(x.clone()), layout);
        self.transform(x + scaled(y, &self.ls1))
    }

    /// The first half: attention and its residual.
    pub fn attend(&self, x: Tensor<2>, layout: &TokenLayout) -> (Tensor<2>, Attended) {
        let (y, attended) = self.attn.forward(self.norm1.forward(x.clone()), layout);
        (x + scaled(y, &self.ls1), attended)
    }

    /// The second half: MLP and its residual.
    pub fn transform(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.norm2.forward(x.clone());
        x + scaled(self.mlp.forward(y), &self.ls2)
    }
}

/// `y: [T, D]` scaled by channel.
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
            MlpActivation::Gelu => gelu(hidden),
            MlpActivation::SwiGlu => {
                let half = hidden.dims()[1] / 2;
                silu(hidden.clone().narrow(1, 0, half)) * hidden.narrow(1, half, half)
            }
        };
        self.fc2.forward(hidden)
    }
}

impl Attention {
    /// `x: [T, D]` to `[T, D]`, the output of [`Attention::forward`] without the intermediate values; computed by a
    /// fused kernel if there is one.
    fn answer(&self, x: Tensor<2>, layout: &TokenLayout) -> Tensor<2> {
        match layout.uniform() {
            Some(tokens) if self.scores_plainly() && fused::here(&x) => {
                self.proj.forward(fused::attention(self.qkv.forward(x), self.heads, tokens))
            }
            _ => self.forward(x, layout).0,
        }
    }

    /// `x: [T, D]` to `[T, D]`; tokens of an image attend to its tokens that are alive.
    fn forward(&self, x: Tensor<2>, layout: &TokenLayout) -> (Tensor<2>, Attended) {
        let [_, dim] = x.dims();
        let head_dim = dim / self.heads;
        let queries = self.for_scores(self.part(0, x.clone()), &self.q_norm, layout.places()); // [T, D]
        let keys = self.for_scores(self.part(1, x.clone()), &self.k_norm, layout.places());
        let values = self.part(2, x);
        let heads = |x: &Tensor<2>| {
            let x = layout.spread(x.clone()); // [B, n, D]
            let [batch, n, _] = x.dims();
            x.reshape([batch, n, self.heads, head_dim]).swap_dims(1, 2) // [B, heads, n, d]
        };
        let (q, k, v) = (heads(&queries), heads(&keys), heads(&values));
        let [batch, _, n, _] = q.dims();

        let mut scores = q.mul_scalar((head_dim as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [B, heads, n, n]
        if let Some(bias) = layout.key_bias() {
            scores = scores + bias;
        }
        if let Some(dead) = layout.dead() {
            let dead = dead.expand([batch, self.heads, n, n]);
            scores = scores.mask_fill(dead, f32::NEG_INFINITY);
        }
        let mut probabilities = softmax(scores);
        if let Some(weights) = layout.key_weights() {
            let weighted = probabilities * weights;
            probabilities = weighted.clone() / weighted.sum_dim(3);
        }
        let y = probabilities.clone().matmul(v).swap_dims(1, 2).reshape([batch, n, dim]);
        (self.proj.forward(layout.gather(y)), Attended { keys, values, probabilities })
    }

    /// Queries (0), keys (1) or values (2) of `x: [T, D]`, `[T, D]`. Each is a product of its own: the gradient of
    /// splitting one product into three would be three times its size, padded with zeros.
    fn part(&self, i: usize, x: Tensor<2>) -> Tensor<2> {
        let dim = x.dims()[1];
        let weight = self.qkv.weight.val().narrow(0, i * dim, dim);
        fused::linear(x, weight, self.qkv.bias.as_ref().map(|bias| bias.val().narrow(0, i * dim, dim)))
    }

    /// Whether scores use queries and keys without a change: [`Attention::for_scores`] returns its input.
    fn scores_plainly(&self) -> bool {
        self.q_norm.is_none() && self.k_norm.is_none()
    }

    /// Queries or keys `x: [T, D]` of tokens at `places: [T]` as the scores use them: normed over each head, if there
    /// is a norm. Rotary position embeddings belong here.
    fn for_scores(&self, x: Tensor<2>, norm: &Option<LayerNorm>, places: GridPlaces<'_>) -> Tensor<2> {
        let [tokens, dim] = x.dims();
        debug_assert_eq!(tokens, places.len(), "a place for each token");
        let Some(norm) = norm else { return x };
        norm.forward(x.reshape([tokens * self.heads, dim / self.heads])).reshape([tokens, dim])
    }
}
