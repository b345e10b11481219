//! CLIP's image tower (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>): a norm before block 0, patches without
//! bias, quick GELU in OpenAI's and DFN's weights; the pooled class token is projected to the space of the texts.

use serde_json::{Value, json};

use super::family::Family;
use super::fields::count_or;
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{Embedding, EmbeddingNorm, MlpActivation, MlpSpec, Pool, Pooling, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["vit_{size}_patch*_clip[_quickgelu]_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[Class {
        name: "CLIP",
        tasks: &[Task::VisionModelWithProjection, Task::VisionModel, Task::Model, Task::Classification],
        geometry,
        names,
        resampling: Resampling::PlainBicubic,
        sized_by_processor: false,
        dialects: &[],
    }],
};

const SIZES: [Size; 8] = [
    Size::new("xsmall", 256, 10, 4),
    Size::new("medium", 512, 12, 8),
    Size::new("betwixt", 640, 12, 10),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size::new("huge", 1280, 32, 16),
    Size { mlp_ratio: 48.0 / 11.0, ..Size::new("giant", 1408, 40, 16) },
    Size { mlp_ratio: 64.0 / 13.0, ..Size::new("gigantic", 1664, 48, 16) },
];

fn named(name: &Name<'_>) -> Option<Draft> {
    let ["vit", size] = name.before.as_slice() else { return None };
    let (activation, side, size) = match name.after.as_slice() {
        ["clip", side] => (MlpActivation::Gelu, side, Size::find(&SIZES, size)?),
        ["clip", "quickgelu", side] => (MlpActivation::QuickGelu, side, Size::find(&SIZES, size)?),
        ["plus", "clip", side] if *size == "base" => {
            (MlpActivation::Gelu, side, Size::new("base_plus", 896, 12, 14))
        }
        _ => return None,
    };
    let mut draft = Draft::plain(name, size, side.parse().ok()?);
    draft.set_pre_norm(true);
    draft.spec.mlp.activation = activation;
    draft.spec.norm.eps = 1e-5;
    Some(draft)
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let defaults = [("hidden_act", json!("quick_gelu")), ("layer_norm_eps", json!(1e-5))];
    let tower = transformers::tower(config, &defaults);
    let spec = transformers::plain(&tower, task, 32)?;
    let mlp = MlpSpec::plain(count_or(&tower, "intermediate_size", 3072)?, transformers::activation(&tower)?);
    let mut pooling = Pooling::plain(Pool::Token, true);
    match task {
        // transformers' classifier sees the mean of the patch tokens as the last block leaves them.
        Task::Classification => pooling = Pooling { final_norm: false, ..Pooling::plain(Pool::Avg, true) },
        Task::Model => pooling.projection = Some(count_or(config, "projection_dim", 512)?),
        Task::VisionModelWithProjection => {
            pooling.projection = Some(count_or(&tower, "projection_dim", 512)?);
        }
        Task::PreTraining | Task::VisionModel | Task::ClassificationWithTeacher => {}
    }
    let embedding = Embedding { patch_bias: false, norm: EmbeddingNorm::Tokens, ..Embedding::default() };
    Ok(VitSpec { mlp, pooling, embedding, ..spec })
}

fn names(spec: &VitSpec) -> NameTable {
    NameTable {
        prefix: "vision_model.",
        rows: &[&BODY, &LAYERS],
        heads: &[("head", &[Stored::As("classifier")])],
        ignored: if spec.pooling.final_norm { &TEXT } else { &TEXT_AND_NORM },
        one_tower: false,
    }
}

/// The text tower and its scales, and the indices of positions.
const TEXT: [&str; 5] =
    ["text_model.*", "text_projection.*", "logit_scale*", "logit_bias*", "embeddings.position_ids"];

const TEXT_AND_NORM: [&str; 6] = [TEXT[0], TEXT[1], TEXT[2], TEXT[3], TEXT[4], "post_layernorm.*"];

const BODY: [NameRow; 5] = [
    ("cls_token", &[Stored::Flat("embeddings.class_embedding")]),
    ("norm_pre", &[Stored::As("pre_layrnorm")]),
    ("fc_norm", &[Stored::As("post_layernorm")]),
    ("patch_embed.proj", &[Stored::As("embeddings.patch_embedding")]),
    ("pos_embed", &[Stored::Flat("embeddings.position_embedding.weight")]),
];

/// The layers of transformers' CLIP and SigLIP.
pub(super) const LAYERS: [NameRow; 6] = [
    ("blocks.{l}.norm1", &[Stored::As("encoder.layers.{l}.layer_norm1")]),
    (
        "blocks.{l}.attn.qkv",
        &[Stored::Stacked(&[
            "encoder.layers.{l}.self_attn.q_proj",
            "encoder.layers.{l}.self_attn.k_proj",
            "encoder.layers.{l}.self_attn.v_proj",
        ])],
    ),
    ("blocks.{l}.attn.proj", &[Stored::As("encoder.layers.{l}.self_attn.out_proj")]),
    ("blocks.{l}.norm2", &[Stored::As("encoder.layers.{l}.layer_norm2")]),
    ("blocks.{l}.mlp.fc1", &[Stored::As("encoder.layers.{l}.mlp.fc1")]),
    ("blocks.{l}.mlp.fc2", &[Stored::As("encoder.layers.{l}.mlp.fc2")]),
];
