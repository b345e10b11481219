//! One transformer block.

use burn::module::{Module, Param};
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::{Device, Tensor, TensorData};
use vitrim_kernels::Activation;
use vitrim_vit::{ChannelPairs, GridPlaces, MlpActivation, Rope};

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
    /// Bias of the queries, and of the values, `[D]`, where keys have none.
    pub q_bias: Option<Param<Tensor<1>>>,
    pub v_bias: Option<Param<Tensor<1>>>,
    /// Norm of each head's queries; `k_norm` is that of the keys.
    pub q_norm: Option<LayerNorm>,
    pub k_norm: Option<LayerNorm>,
    /// Norm of the inputs of `proj`.
    pub inner_norm: Option<LayerNorm>,
    pub proj: Linear,
    pub heads: usize,
    /// Rotary position embeddings of queries and keys.
    #[module(skip)]
    pub rope: Option<Rope>,
}

/// Two layers with an activation between.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    pub fc1: Linear,
    /// Norm of the inputs of `fc2`.
    pub norm: Option<LayerNorm>,
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

/// `function` of each value.
fn activated(function: Activation, x: Tensor<2>) -> Tensor<2> {
    match function {
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => {
            let cube = x.clone().square() * x.clone();
            let inner = x.clone() + cube.mul_scalar(0.044_715);
            let slope = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            // (1 + tanh(u)) / 2 = sigmoid(2 u)
            x * sigmoid(inner.mul_scalar(slope))
        }
        Activation::QuickGelu => x.clone() * sigmoid(x.mul_scalar(1.702)),
        Activation::Silu => silu(x),
    }
}

impl Mlp {
    /// `x: [T, D]` to `[T, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.fc1.forward(x);
        let function = self.activation.function();
        let hidden = if self.activation.is_gated() {
            let half = hidden.dims()[1] / 2;
            activated(function, hidden.clone().narrow(1, 0, half)) * hidden.narrow(1, half, half)
        } else {
            activated(function, hidden)
        };
        let hidden = match &self.norm {
            Some(norm) => norm.forward(hidden),
            None => hidden,
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
                self.project(fused::attention(self.qkv.forward(x), self.heads, tokens))
            }
            _ => self.forward(x, layout).0,
        }
    }

    /// `x: [T, D]` to `[T, D]`; tokens of an image attend to its tokens that are alive.
    fn forward(&self, x: Tensor<2>, layout: &TokenLayout) -> (Tensor<2>, Attended) {
        let [_, dim] = x.dims();
        let head_dim = dim / self.heads;
        let rotations = self.rope.map(|rope| Rotations::of(&rope, layout.places(), head_dim, &x.device()));
        let queries = self.for_scores(self.part(0, x.clone()), &self.q_norm, rotations.as_ref()); // [T, D]
        let keys = self.for_scores(self.part(1, x.clone()), &self.k_norm, rotations.as_ref());
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
        (self.project(layout.gather(y)), Attended { keys, values, probabilities })
    }

    /// The output projection of `x: [T, D]`, with its norm.
    fn project(&self, x: Tensor<2>) -> Tensor<2> {
        let x = match &self.inner_norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        self.proj.forward(x)
    }

    /// Queries (0), keys (1) or values (2) of `x: [T, D]`, `[T, D]`. Each is a product of its own: the gradient of
    /// splitting one product into three would be three times its size, padded with zeros.
    fn part(&self, i: usize, x: Tensor<2>) -> Tensor<2> {
        let dim = x.dims()[1];
        let weight = self.qkv.weight.val().narrow(0, i * dim, dim);
        let together = self.qkv.bias.as_ref().map(|bias| bias.val().narrow(0, i * dim, dim));
        let own = [&self.q_bias, &None, &self.v_bias][i].as_ref().map(|bias| bias.val());
        fused::linear(x, weight, together.or(own))
    }

    /// Whether scores use queries and keys without a change: [`Attention::for_scores`] returns its input.
    fn scores_plainly(&self) -> bool {
        let unbiased = self.q_bias.is_none() && self.v_bias.is_none();
        unbiased && self.q_norm.is_none() && self.k_norm.is_none() && self.rope.is_none()
    }

    /// Queries or keys `x: [T, D]` as the scores use them: normed over each head, if there is a norm, then rotated.
    fn for_scores(&self, x: Tensor<2>, norm: &Option<LayerNorm>, rotations: Option<&Rotations>) -> Tensor<2> {
        let [tokens, dim] = x.dims();
        let x = match norm {
            Some(norm) => {
                norm.forward(x.reshape([tokens * self.heads, dim / self.heads])).reshape([tokens, dim])
            }
            None => x,
        };
        match rotations {
            Some(rotations) => rotations.apply(x.reshape([tokens, self.heads, dim / self.heads])),
            None => x,
        }
    }
}

/// Rotations of T tokens by their own places.
struct Rotations {
    /// Cosines and sines, `[T, 1, d / 2]`; of prefix tokens 1 and 0.
    cosines: Tensor<3>,
    sines: Tensor<3>,
    pairs: ChannelPairs,
}

impl Rotations {
    fn of(rope: &Rope, places: GridPlaces<'_>, head_dim: usize, device: &Device) -> Self {
        let (tokens, half, grid) = (places.len(), head_dim / 2, places.grid());
        let mut angles = Vec::with_capacity(tokens * half);
        for place in places.iter() {
            match place {
                Some(place) => angles.extend(rope.angles(place, grid, head_dim)),
                None => angles.resize(angles.len() + half, 0.0),
            }
        }
        let tensor = |of: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| of(*angle)).collect();
            Tensor::from_data(TensorData::new(values, [tokens, 1, half]), device)
        };
        Rotations { cosines: tensor(f32::cos), sines: tensor(f32::sin), pairs: rope.pairs }
    }

    /// `x: [T, heads, d]` rotated, `[T, heads * d]`.
    fn apply(&self, x: Tensor<3>) -> Tensor<2> {
        let [tokens, heads, d] = x.dims();
        let half = d / 2;
        let (a, b) = match self.pairs {
            ChannelPairs::Halves => (x.clone().narrow(2, 0, half), x.narrow(2, half, half)),
            ChannelPairs::Neighbours => {
                let pairs = x.reshape([tokens, heads, half, 2]);
                let side = |i: usize| pairs.clone().narrow(3, i, 1).reshape([tokens, heads, half]);
                (side(0), side(1))
            }
        };
        let (cos, sin) = (self.cosines.clone(), self.sines.clone());
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        let second = b * cos + a * sin;
        let rotated = match self.pairs {
            ChannelPairs::Halves => Tensor::cat(vec![first, second], 2),
            ChannelPairs::Neighbours => {
                let pairs = [first, second].map(|side| side.reshape([tokens, heads, half, 1]));
                Tensor::cat(pairs.to_vec(), 3).reshape([tokens, heads, d])
            }
        };
        rotated.reshape([tokens, heads * d])
    }
}
