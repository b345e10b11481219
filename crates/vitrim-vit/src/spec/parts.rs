//! The parts of a backbone's geometry. A difference of a new family is a variant or a field here. It is then handled
//! in one place each of the executor, the cost model, the Burn model and the tensors' shapes.

use serde::Serialize;

/// The tokens at the input of block 0, besides the patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Embedding {
    /// Whether there is a class token.
    pub class_token: bool,
    /// Whether there is a distillation token with its own head (DeiT).
    pub distilled: bool,
    /// Register tokens, after class and distillation token.
    pub reg_tokens: usize,
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
}

/// Multi-head self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AttentionSpec {
    /// Number of heads; it divides the width.
    pub heads: usize,
    /// Whether the QKV projection has a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys have a LayerNorm.
    pub qk_norm: bool,
}

/// The activation between the two layers of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpActivation {
    /// Exact GELU.
    Gelu,
    /// SwiGLU: SiLU of the first half of the first layer's outputs times the second half (DINOv2-g; timm's
    /// `SwiGLUPacked`).
    SwiGlu,
}

impl MlpActivation {
    /// Whether the first layer has twice as many outputs as the second has inputs.
    pub(crate) fn is_gated(self) -> bool {
        match self {
            MlpActivation::Gelu => false,
            MlpActivation::SwiGlu => true,
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
}

impl MlpSpec {
    /// The MLP whose first layer has `outputs` outputs.
    pub(crate) fn of_outputs(outputs: usize, activation: MlpActivation) -> Self {
        MlpSpec { hidden: if activation.is_gated() { outputs / 2 } else { outputs }, activation }
    }

    /// Outputs of the first layer.
    pub fn first(&self) -> usize {
        if self.activation.is_gated() { 2 * self.hidden } else { self.hidden }
    }
}

/// All LayerNorms of the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NormSpec {
    /// Epsilon, which is added to the variance.
    #[serde(rename = "norm_eps")]
    pub eps: f32,
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
}

impl Pool {
    /// timm's name, if it has one.
    pub fn timm_name(self) -> Option<&'static str> {
        match self {
            Pool::Token => Some("token"),
            Pool::Avg => Some("avg"),
            Pool::TokenAvg => None,
        }
    }
}

/// How the classifier's input is made from the final tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pooling {
    /// The tokens that are pooled.
    pub pool: Pool,
    /// Whether the norm comes after pooling (timm's `fc_norm`) instead of before.
    pub fc_norm: bool,
}
