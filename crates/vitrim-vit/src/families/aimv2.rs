//! AIMv2 (Fini et al., 2024, <https://arxiv.org/abs/2411.14402>): RMSNorm, one right after the patch embedding; SwiGLU; no
//! biases; pooling by a learned query without a projection.

use serde_json::{Value, json};

use super::authors;
use super::family::Family;
use super::fields::{count_or, flag_or};
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{
    AttentionPool, AttentionSpec, Embedding, EmbeddingNorm, MlpActivation, MlpSpec, NormSpec, Pool, Pooling,
    Positions, VitSpec,
};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["aimv2_{size}_patch*_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[
        Class {
            name: "Aimv2",
            tasks: &[Task::VisionModel, Task::Model],
            geometry,
            names,
            resampling: Resampling::PlainBicubic,
            sized_by_processor: false,
            dialects: &[],
        },
        // Apple's own class, with remote code.
        Class {
            name: "AIMv2",
            tasks: &[Task::Model],
            geometry: apples,
            names,
            resampling: Resampling::PlainBicubic,
            sized_by_processor: false,
            dialects: &[authors::APPLE],
        },
    ],
};

const SIZES: [Size; 4] = [
    Size { mlp_ratio: 2.75, ..Size::new("large", 1024, 24, 8) },
    Size { mlp_ratio: 2.6667, ..Size::new("huge", 1536, 24, 12) },
    Size { mlp_ratio: 2.75, ..Size::new("1b", 2048, 24, 16) },
    Size { mlp_ratio: 2.6667, ..Size::new("3b", 3072, 24, 24) },
];

/// timm's, without the attention pool.
fn named(name: &Name<'_>) -> Option<Draft> {
    let (["aimv2", size], [side]) = (name.before.as_slice(), name.after.as_slice()) else { return None };
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, side.parse().ok()?);
    draft.fc_norm = Some(false);
    draft.hidden_ratio = Some(1);
    let spec = &mut draft.spec;
    spec.num_classes = 0;
    spec.embedding.class_token = false;
    spec.embedding.norm = EmbeddingNorm::Patches;
    spec.pooling.pool = Pool::Avg;
    spec.norm = NormSpec { eps: 1e-5, rms: true };
    spec.mlp.activation = MlpActivation::SwiGlu;
    spec.attention.qkv_bias = false;
    (spec.attention.proj_bias, spec.mlp.bias) = (false, false);
    Some(draft)
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let defaults = [
        ("hidden_size", json!(1024)),
        ("num_hidden_layers", json!(24)),
        ("num_attention_heads", json!(8)),
        ("hidden_act", json!("silu")),
        ("qkv_bias", json!(false)),
        ("rms_norm_eps", json!(1e-5)),
    ];
    let tower = transformers::tower(config, &defaults);
    let gate = transformers::activation(&tower)?.function();
    let spec = transformers::plain(&tower, task, 14)?;
    let biased = spec.attention.qkv_bias;
    let mlp = MlpSpec {
        bias: flag_or(&tower, "mlp_bias", false)?,
        ..MlpSpec::plain(count_or(&tower, "intermediate_size", 2816)?, MlpActivation::of(gate, true))
    };
    let mut pooling = if flag_or(&tower, "use_head", true)? {
        let heads = spec.attention.heads;
        let pool = AttentionPool { heads, prefix: false, query: false, bias: biased, mlp: None };
        Pooling { attention: Some(pool), ..Pooling::plain(Pool::Map, false) }
    } else {
        Pooling::plain(Pool::Avg, false)
    };
    if task == Task::Model {
        pooling.projection = Some(count_or(config, "projection_dim", 512)?);
    }
    // Apple's checkpoint for images of all sizes.
    let positions = if flag_or(&tower, "is_native", false)? { Positions::Sines } else { Positions::All };
    let eps = tower["rms_norm_eps"].as_f64().unwrap_or(1e-5) as f32;
    Ok(VitSpec {
        mlp,
        pooling,
        positions,
        attention: AttentionSpec { proj_bias: biased, ..spec.attention },
        norm: NormSpec { eps, rms: true },
        embedding: Embedding { class_token: false, norm: EmbeddingNorm::Patches, ..Embedding::default() },
        ..spec
    })
}

/// Without a head.
fn apples(config: &Value, _: Task) -> Result<VitSpec> {
    let mut config = config.clone();
    config["use_head"] = json!(false);
    geometry(&config, Task::VisionModel)
}

fn names(_: &VitSpec) -> NameTable {
    NameTable {
        prefix: "vision_model.",
        rows: &[&BODY],
        heads: &[],
        ignored: &["text_model.*", "text_projection.*", "logit_scale*", "embeddings.position_ids"],
        one_tower: false,
    }
}

const BODY: [NameRow; 13] = [
    ("patch_embed.proj", &[Stored::As("embeddings.patch_embed")]),
    ("patch_embed.norm", &[Stored::As("embeddings.rms_norm")]),
    ("pos_embed", &[Stored::Flat("embeddings.position_embedding.weight")]),
    ("blocks.{l}.norm1", &[Stored::As("encoder.layers.{l}.rms_norm1")]),
    (
        "blocks.{l}.attn.qkv",
        &[Stored::Stacked(&[
            "encoder.layers.{l}.attention.q_proj",
            "encoder.layers.{l}.attention.k_proj",
            "encoder.layers.{l}.attention.v_proj",
        ])],
    ),
    ("blocks.{l}.attn.proj", &[Stored::As("encoder.layers.{l}.attention.out_proj")]),
    ("blocks.{l}.norm2", &[Stored::As("encoder.layers.{l}.rms_norm2")]),
    (
        "blocks.{l}.mlp.fc1",
        &[Stored::Stacked(&["encoder.layers.{l}.ffn.gate_proj", "encoder.layers.{l}.ffn.up_proj"])],
    ),
    ("blocks.{l}.mlp.fc2", &[Stored::As("encoder.layers.{l}.ffn.down_proj")]),
    ("norm", &[Stored::As("rms_norm")]),
    ("attn_pool.latent", &[Stored::As("head.cls_token")]),
    ("attn_pool.kv", &[Stored::Stacked(&["head.k_proj", "head.v_proj"])]),
    ("attn_pool.proj", &[Stored::As("head.output_proj")]),
];
