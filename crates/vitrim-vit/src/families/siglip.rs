//! SigLIP's image tower (Zhai et al., 2023, <https://arxiv.org/abs/2303.15343>), and SigLIP 2's at fixed sizes (Tschannen
//! et al., 2025, <https://arxiv.org/abs/2502.14786>): no class token, pooling by attention.

use serde_json::{Value, json};

use super::clip;
use super::family::Family;
use super::fields::{count_or, flag_or};
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{AttentionPool, Embedding, MlpActivation, MlpSpec, Pool, Pooling, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["vit_{size}_patch*_siglip[_gap]_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[Class {
        name: "Siglip",
        tasks: &[Task::VisionModel, Task::Model, Task::Classification],
        geometry,
        names,
        resampling: Resampling::PlainBicubic,
        sized_by_processor: false,
        dialects: &[],
    }],
};

const SIZES: [Size; 4] = [
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size { mlp_ratio: 3.7362, ..Size::new("so400m", 1152, 27, 16) },
    Size::new("giantopt", 1536, 40, 16),
];

fn named(name: &Name<'_>) -> Option<Draft> {
    let ["vit", size] = name.before.as_slice() else { return None };
    let (pool, side) = match name.after.as_slice() {
        ["siglip", side] => (Pool::Map, side.parse().ok()?),
        ["siglip", "gap", side] => (Pool::Avg, side.parse().ok()?),
        _ => return None,
    };
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, side);
    draft.fc_norm = Some(false);
    let spec = &mut draft.spec;
    spec.num_classes = 0;
    spec.embedding.class_token = false;
    spec.embedding.cropped = true;
    (spec.pooling.pool, spec.pooling.contrastive) = (pool, true);
    // timm names the activation only where it came with SigLIP 2.
    let tanh = match (*size, spec.patch_size) {
        ("giantopt", _) | ("base", 32) | ("so400m", 16) => true,
        ("large", _) => side == 512,
        _ => false,
    };
    spec.mlp.activation = if tanh { MlpActivation::GeluTanh } else { MlpActivation::Gelu };
    Some(draft)
}

pub(super) fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let defaults = [("hidden_act", json!("gelu_pytorch_tanh")), ("layer_norm_eps", json!(1e-6))];
    let tower = transformers::tower(config, &defaults);
    let spec = transformers::plain(&tower, task, 16)?;
    let mlp = MlpSpec::plain(count_or(&tower, "intermediate_size", 3072)?, transformers::activation(&tower)?);
    // The classifier sees the mean of the tokens.
    let map = task != Task::Classification && flag_or(&tower, "vision_use_head", true)?;
    let pooling = if map {
        let pool = AttentionPool {
            heads: spec.attention.heads,
            prefix: false,
            query: true,
            bias: true,
            mlp: Some(mlp),
        };
        Pooling { attention: Some(pool), contrastive: true, ..Pooling::plain(Pool::Map, false) }
    } else {
        Pooling::plain(Pool::Avg, false)
    };
    let embedding = Embedding { class_token: false, cropped: true, ..Embedding::default() };
    Ok(VitSpec { mlp, pooling, embedding, ..spec })
}

pub(super) fn names(spec: &VitSpec) -> NameTable {
    NameTable {
        prefix: "vision_model.",
        rows: &[&BODY, &clip::LAYERS],
        heads: &[("head", &[Stored::As("classifier")])],
        ignored: if spec.pooling.attention.is_some() { &TEXT } else { &TEXT_AND_POOL },
        one_tower: false,
    }
}

/// The text tower and its scales, and the indices of positions.
const TEXT: [&str; 4] = ["text_model.*", "logit_scale*", "logit_bias*", "embeddings.position_ids"];

const TEXT_AND_POOL: [&str; 5] = [TEXT[0], TEXT[1], TEXT[2], TEXT[3], "head.*"];

pub(super) const BODY: [NameRow; 12] = [
    ("norm", &[Stored::As("post_layernorm")]),
    ("patch_embed.proj", &[Stored::As("embeddings.patch_embedding")]),
    ("pos_embed", &[Stored::Flat("embeddings.position_embedding.weight")]),
    ("attn_pool.latent", &[Stored::As("head.probe")]),
    ("attn_pool.q.weight", &[Stored::Share("head.attention.in_proj_weight", 0, 1, 3)]),
    ("attn_pool.q.bias", &[Stored::Share("head.attention.in_proj_bias", 0, 1, 3)]),
    ("attn_pool.kv.weight", &[Stored::Share("head.attention.in_proj_weight", 1, 3, 3)]),
    ("attn_pool.kv.bias", &[Stored::Share("head.attention.in_proj_bias", 1, 3, 3)]),
    ("attn_pool.proj", &[Stored::As("head.attention.out_proj")]),
    ("attn_pool.norm", &[Stored::As("head.layernorm")]),
    ("attn_pool.mlp.fc1", &[Stored::As("head.mlp.fc1")]),
    ("attn_pool.mlp.fc2", &[Stored::As("head.mlp.fc2")]),
];
