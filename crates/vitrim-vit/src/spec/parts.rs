//! The parts of a backbone's geometry. A difference of a new family is a variant or a field here. It is then handled
//! in one place each of the executor, the cost model, the Burn model and the tensors' shapes. A field that a family adds
//! is not serialised at its default, so that the written form of other backbones stays.

use serde::Serialize;
pub use vitrim_kernels::ChannelPairs;
use vitrim_kernels::{Activation, LayerNorm};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(flag: &bool) -> bool {
    *flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The tokens at the input of block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Embedding {
    /// Whether there is a class token.
    pub class_token: bool,
    /// Whether there is a distillation token with its own head (DeiT).
    pub distilled: bool,
    /// Register tokens, after class and distillation token.
    pub reg_tokens: usize,
    /// Whether the patch embedding has a bias (not in CLIP).
    #[serde(skip_serializing_if = "is_true")]
    pub patch_bias: bool,
    /// Whether the rows and columns of pixels at the end that patches do not tile are left out (SigLIP of patch 14 at 384
    /// pixels).
    #[serde(skip_serializing_if = "is_false")]
    pub cropped: bool,
    /// Rows and columns of the learned positions of a backbone whose images have a grid each, to which the positions are
    /// resampled (NaFlex); `None` if all images have the grid of the input size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_grid: Option<[usize; 2]>,
    /// The norm before block 0.
    #[serde(rename = "embedding_norm", skip_serializing_if = "EmbeddingNorm::is_none")]
    pub norm: EmbeddingNorm,
}

impl Default for Embedding {
    /// A class token, and patches with a bias.
    fn default() -> Self {
        Embedding {
            class_token: true,
            distilled: false,
            reg_tokens: 0,
            patch_bias: true,
            cropped: false,
            position_grid: None,
            norm: EmbeddingNorm::None,
        }
    }
}

/// A norm before block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingNorm {
    /// No norm.
    None,
    /// Over all tokens with their positions (CLIP's `pre_layrnorm`, timm's `norm_pre`).
    Tokens,
    /// Over the embedded patches, before their positions are added (AIMv2).
    Patches,
}

impl EmbeddingNorm {
    fn is_none(&self) -> bool {
        *self == EmbeddingNorm::None
    }
}

/// Which tokens have a learned position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Every token.
    All,
    /// The class token and the patches (transformers' DINOv2 with registers).
    ClassAndPatches,
    /// The patches alone (timm's `no_embed_class`: DeiT-III, DINOv2 with registers).
    Patches,
    /// No token (DINOv3, which has rotary position embeddings).
    None,
    /// The patches, computed instead of learned (AIMv2 for all sizes): see
    /// [`VitSpec::computed_positions`](super::VitSpec::computed_positions).
    Sines,
}

/// Multi-head self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AttentionSpec {
    /// Number of heads; it divides the width.
    pub heads: usize,
    /// Whether the QKV projection has a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys have a LayerNorm.
    pub qk_norm: bool,
    /// Whether the bias of the QKV projection spares the keys: queries and values have one each (DINOv3, EVA).
    #[serde(skip_serializing_if = "is_false")]
    pub unbiased_keys: bool,
    /// Whether the output projection has a bias (not in AIMv2).
    #[serde(skip_serializing_if = "is_true")]
    pub proj_bias: bool,
    /// Whether the inputs of the output projection are normed (timm's `scale_attn_inner`: EVA-02's CLIP).
    #[serde(rename = "attn_norm", skip_serializing_if = "is_false")]
    pub inner_norm: bool,
    /// Rotary position embeddings of queries and keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope: Option<Rope>,
}

impl AttentionSpec {
    /// Attention of `heads` heads with all biases, without norms and rotary embeddings.
    pub fn plain(heads: usize) -> Self {
        AttentionSpec {
            heads,
            qkv_bias: true,
            qk_norm: false,
            unbiased_keys: false,
            proj_bias: true,
            inner_norm: false,
            rope: None,
        }
    }
}

/// Rotary position embeddings of patches on a grid (Su et al., 2021; EVA-02, Fang et al., 2023). Each head of d channels
/// is rotated by d / 2 angles: d / 4 for one axis of the grid, then d / 4 for the other, each a multiple of the
/// coordinate that falls geometrically from 1 to nearly 1 / theta. Prefix tokens are not rotated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the geometric series.
    pub theta: f32,
    /// The coordinates that are multiplied.
    pub coordinates: Coordinates,
    /// The channels that are rotated together.
    #[serde(serialize_with = "write_pairs")]
    pub pairs: ChannelPairs,
}

fn write_pairs<S: serde::Serializer>(pairs: &ChannelPairs, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(match pairs {
        ChannelPairs::Halves => "halves",
        ChannelPairs::Neighbours => "neighbours",
    })
}

/// The coordinates of a patch for rotary position embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Coordinates {
    /// 2 pi times the place of the patch's centre, -1 to 1 from one edge of the image to the other; rows first
    /// (DINOv3).
    Centred,
    /// Row and column, plus `offset`, scaled from the grid to the grid `reference` of pre-training if there is one; rows
    /// first, or columns first (EVA-02, Perception Encoder).
    Cells {
        /// Added before scaling.
        offset: f32,
        /// Rows and columns of the grid of pre-training.
        reference: Option<[usize; 2]>,
        /// Whether the angles of the columns come before those of the rows.
        columns_first: bool,
    },
}

impl Rope {
    /// The d / 2 angles of a patch at `row` and `column` of a grid of `[rows, columns]`, for heads of `head_dim`
    /// channels.
    pub fn angles(&self, [row, column]: [usize; 2], grid: [usize; 2], head_dim: usize) -> Vec<f32> {
        let bands = head_dim / 4;
        let place = [row, column];
        let coordinate = |axis: usize| match self.coordinates {
            Coordinates::Centred => {
                2.0 * std::f32::consts::PI * (2.0 * ((place[axis] as f32 + 0.5) / grid[axis] as f32) - 1.0)
            }
            Coordinates::Cells { offset, reference, .. } => {
                let at = place[axis] as f32 + offset;
                reference.map_or(at, |reference| at / grid[axis] as f32 * reference[axis] as f32)
            }
        };
        let columns_first = matches!(self.coordinates, Coordinates::Cells { columns_first: true, .. });
        let axes = if columns_first { [1, 0] } else { [0, 1] };
        let band = |i: usize| self.theta.powf(i as f32 / bands as f32).recip();
        axes.into_iter().flat_map(|axis| (0..bands).map(move |i| coordinate(axis) * band(i))).collect()
    }
}

/// The activation between the two layers of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpActivation {
    /// Exact GELU.
    Gelu,
    /// The tanh approximation of GELU (SigLIP).
    #[serde(rename = "gelu_tanh")]
    GeluTanh,
    /// `x sigmoid(1.702 x)` (OpenAI's CLIP).
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
    /// SwiGLU: SiLU of the first half of the first layer's outputs times the second half (DINOv2-g; timm's
    /// `SwiGLUPacked`).
    SwiGlu,
    /// GEGLU: exact GELU of the first half times the second half (timm's `SwiGLUPacked` with another `act_layer`).
    GeGlu,
    /// GEGLU with the tanh approximation of GELU.
    #[serde(rename = "geglu_tanh")]
    GeGluTanh,
    /// GEGLU with quick GELU.
    #[serde(rename = "quick_geglu")]
    QuickGeGlu,
}

impl MlpActivation {
    /// The function of each value, or of each value of the gate.
    pub fn function(self) -> Activation {
        match self {
            MlpActivation::Gelu | MlpActivation::GeGlu => Activation::Gelu,
            MlpActivation::GeluTanh | MlpActivation::GeGluTanh => Activation::GeluTanh,
            MlpActivation::QuickGelu | MlpActivation::QuickGeGlu => Activation::QuickGelu,
            MlpActivation::Silu | MlpActivation::SwiGlu => Activation::Silu,
        }
    }

    /// Whether the function of half of the first layer's outputs weighs the other half: the first layer then has twice
    /// as many outputs as the second has inputs.
    pub fn is_gated(self) -> bool {
        use MlpActivation::{GeGlu, GeGluTanh, QuickGeGlu, SwiGlu};
        matches!(self, SwiGlu | GeGlu | GeGluTanh | QuickGeGlu)
    }

    /// The activation of `function`, gated or not.
    pub(crate) fn of(function: Activation, gated: bool) -> Self {
        match (function, gated) {
            (Activation::Gelu, false) => MlpActivation::Gelu,
            (Activation::GeluTanh, false) => MlpActivation::GeluTanh,
            (Activation::QuickGelu, false) => MlpActivation::QuickGelu,
            (Activation::Silu, false) => MlpActivation::Silu,
            (Activation::Gelu, true) => MlpActivation::GeGlu,
            (Activation::GeluTanh, true) => MlpActivation::GeGluTanh,
            (Activation::QuickGelu, true) => MlpActivation::QuickGeGlu,
            (Activation::Silu, true) => MlpActivation::SwiGlu,
        }
    }
}

/// Two linear layers with an activation between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MlpSpec {
    /// Inputs of the second layer.
    #[serde(rename = "mlp_hidden")]
    pub hidden: usize,
    /// The activation between the layers.
    pub activation: MlpActivation,
    /// Whether both layers have a bias (not in AIMv2).
    #[serde(rename = "mlp_bias", skip_serializing_if = "is_true")]
    pub bias: bool,
    /// Whether the inputs of the second layer are normed (timm's `scale_mlp`: EVA-02 of size base and above).
    #[serde(rename = "mlp_norm", skip_serializing_if = "is_false")]
    pub norm: bool,
}

impl MlpSpec {
    /// The MLP with `hidden` inputs of the second layer, with biases and without a norm.
    pub fn plain(hidden: usize, activation: MlpActivation) -> Self {
        MlpSpec { hidden, activation, bias: true, norm: false }
    }

    /// This MLP with a first layer of `outputs` outputs.
    pub(crate) fn of_outputs(self, outputs: usize) -> Self {
        MlpSpec { hidden: if self.activation.is_gated() { outputs / 2 } else { outputs }, ..self }
    }

    /// Outputs of the first layer.
    pub fn first(&self) -> usize {
        if self.activation.is_gated() { 2 * self.hidden } else { self.hidden }
    }
}

/// All norms of the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NormSpec {
    /// Epsilon, which is added to the variance.
    #[serde(rename = "norm_eps")]
    pub eps: f32,
    /// Whether they are RMSNorms, without mean and bias (AIMv2).
    #[serde(rename = "rms_norm", skip_serializing_if = "is_false")]
    pub rms: bool,
}

impl NormSpec {
    /// LayerNorms with `eps`.
    pub fn layer(eps: f32) -> Self {
        NormSpec { eps, rms: false }
    }

    /// The norm with a learned `weight` and, unless it is an RMSNorm, `bias`, `[D]` each.
    pub(crate) fn with(self, weight: &[f32], bias: Option<&[f32]>) -> LayerNorm {
        match bias {
            Some(bias) => LayerNorm::new(weight, bias, self.eps),
            None => LayerNorm::rms(weight, self.eps),
        }
    }
}

/// The classifier's input (timm's `global_pool`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The class token.
    Token,
    /// The mean of the patch tokens.
    Avg,
    /// The class token, then the mean of the patch tokens, `[2D]` (the linear head of transformers' DINOv2).
    TokenAvg,
    /// The output of a learned query that attends to the tokens (SigLIP): see [`AttentionPool`].
    Map,
}

impl Pool {
    /// timm's name, if it has one.
    pub fn timm_name(self) -> Option<&'static str> {
        match self {
            Pool::Token => Some("token"),
            Pool::Avg => Some("avg"),
            Pool::Map => Some("map"),
            Pool::TokenAvg => None,
        }
    }
}

/// Pooling by attention (Lee et al., 2019; Zhai et al., 2022): a learned query attends to the final tokens; its output is
/// projected and, if there is an MLP, `y + mlp(norm(y))`. A merged token counts as often as its size says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AttentionPool {
    /// Number of heads; it divides the width.
    pub heads: usize,
    /// Whether prefix tokens are pooled, too (Perception Encoder).
    pub prefix: bool,
    /// Whether the learned query goes through a projection (not in AIMv2).
    pub query: bool,
    /// Whether the projections of query, keys and values have a bias.
    pub bias: bool,
    /// The MLP at the end, with its norm.
    pub mlp: Option<MlpSpec>,
}

/// How the classifier's input is made from the final tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pooling {
    /// The tokens that are pooled.
    pub pool: Pool,
    /// Whether the norm comes after pooling (timm's `fc_norm`) instead of before.
    pub fc_norm: bool,
    /// Whether there is a norm at all, before or after pooling.
    #[serde(skip_serializing_if = "is_true")]
    pub final_norm: bool,
    /// The attention of [`Pool::Map`].
    #[serde(rename = "attention_pool", skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionPool>,
    /// Outputs of a projection of the pooled features to the space that images share with texts (transformers' CLIP);
    /// `None` without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection: Option<usize>,
    /// Whether the projection has a bias (timm's CLIP, whose projection is stored as a classifier).
    #[serde(skip_serializing_if = "is_false")]
    pub projection_bias: bool,
    /// Whether the output of the attention pool itself is in the space that images share with texts (SigLIP).
    #[serde(rename = "contrastive_pool", skip_serializing_if = "is_false")]
    pub contrastive: bool,
    /// Whether the classifier reads the image embedding, scaled to length 1, instead of the pooled features: its weights
    /// are embeddings of texts ([`TextClasses`](crate::TextClasses)).
    #[serde(skip_serializing_if = "is_false")]
    pub zero_shot: bool,
}

impl Pooling {
    /// Pooling of `pool` by one or several tokens, with the norm after it if `fc_norm`.
    pub fn plain(pool: Pool, fc_norm: bool) -> Self {
        Pooling {
            pool,
            fc_norm,
            final_norm: true,
            attention: None,
            projection: None,
            projection_bias: false,
            contrastive: false,
            zero_shot: false,
        }
    }
}
