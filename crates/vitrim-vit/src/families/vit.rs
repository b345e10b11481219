//! ViT (Dosovitskiy et al., 2021, <https://arxiv.org/abs/2010.11929>), in timm's sizes and transformers' classes.

use serde_json::{Value, json};

use super::family::Family;
use super::fields::count_or;
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{MlpSpec, Pool, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["vit_{size}_patch*_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[("VisionTransformer", "vit_tiny_patch16_224")],
    },
    transformers: &[
        Class {
            name: "ViT",
            tasks: &TASKS,
            geometry,
            names: |_| NAMES,
            resampling: Resampling::PlainBicubic,
            sized_by_processor: false,
            dialects: &[],
        },
        // MAE (He et al., 2022, <https://arxiv.org/abs/2111.06377>); all patches are seen.
        Class {
            name: "ViTMAE",
            tasks: &[Task::Model, Task::PreTraining],
            geometry,
            names: |_| NameTable { ignored: &DECODER, ..NAMES },
            resampling: Resampling::PlainBicubic,
            sized_by_processor: false,
            dialects: &[],
        },
        // MSN (Assran et al., 2022, <https://arxiv.org/abs/2204.07141>).
        Class {
            name: "ViTMSN",
            tasks: &TASKS,
            geometry: msn,
            names: |_| NAMES,
            resampling: Resampling::PlainBicubic,
            sized_by_processor: false,
            dialects: &[],
        },
        // I-JEPA (Assran et al., 2023, <https://arxiv.org/abs/2301.08243>): no class token.
        Class {
            name: "IJepa",
            tasks: &TASKS,
            geometry: ijepa,
            names: |_| NameTable { prefix: "ijepa.", ..NAMES },
            resampling: Resampling::PlainBicubic,
            sized_by_processor: false,
            dialects: &[],
        },
    ],
};

const TASKS: [Task; 2] = [Task::Model, Task::Classification];

const SIZES: [Size; 7] = [
    Size::new("tiny", 192, 12, 3),
    Size::new("small", 384, 12, 6),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size::new("huge", 1280, 32, 16),
    Size { mlp_ratio: 48.0 / 11.0, ..Size::new("giant", 1408, 40, 16) },
    Size { mlp_ratio: 64.0 / 13.0, ..Size::new("gigantic", 1664, 48, 16) },
];

fn named(name: &Name<'_>) -> Option<Draft> {
    match (name.before.as_slice(), name.after.as_slice()) {
        (["vit", size], [side]) => Some(Draft::plain(name, Size::find(&SIZES, size)?, side.parse().ok()?)),
        _ => None,
    }
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let spec = transformers::plain(config, task, 16)?;
    let mlp = MlpSpec::plain(count_or(config, "intermediate_size", 3072)?, transformers::activation(config)?);
    Ok(VitSpec { mlp, ..spec })
}

fn msn(config: &Value, task: Task) -> Result<VitSpec> {
    geometry(&transformers::tower(config, &[("layer_norm_eps", json!(1e-6))]), task)
}

/// The mean of the tokens is the classifier's input, and what pools them without a classifier.
fn ijepa(config: &Value, task: Task) -> Result<VitSpec> {
    let mut spec = geometry(config, task)?;
    spec.embedding.class_token = false;
    spec.pooling.pool = Pool::Avg;
    Ok(spec)
}

const NAMES: NameTable = NameTable {
    prefix: "vit.",
    rows: &[&BODY],
    heads: &[("head", &[Stored::As("classifier")])],
    ignored: &IGNORED,
    one_tower: false,
};

/// Tensors that inference does not need: the mask token of pre-training, and a tanh layer over the class token.
pub(super) const IGNORED: [&str; 3] = ["embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"];

/// The decoder that pre-training needs, too.
const DECODER: [&str; 2] = ["decoder.*", "embeddings.mask_token"];

/// Each row's second way is the name in the memory of transformers 5, which a `state_dict` that is saved as it is has;
/// `save_pretrained` writes the first (`conversion_mapping.py`).
pub(super) const BODY: [NameRow; 10] = [
    ("patch_embed.proj", &[Stored::As("embeddings.patch_embeddings.projection")]),
    ("cls_token", &[Stored::As("embeddings.cls_token")]),
    ("pos_embed", &[Stored::As("embeddings.position_embeddings")]),
    (
        "blocks.{l}.norm1",
        &[Stored::As("encoder.layer.{l}.layernorm_before"), Stored::As("layers.{l}.layernorm_before")],
    ),
    (
        "blocks.{l}.attn.qkv",
        &[
            Stored::Stacked(&[
                "encoder.layer.{l}.attention.attention.query",
                "encoder.layer.{l}.attention.attention.key",
                "encoder.layer.{l}.attention.attention.value",
            ]),
            Stored::Stacked(&[
                "layers.{l}.attention.q_proj",
                "layers.{l}.attention.k_proj",
                "layers.{l}.attention.v_proj",
            ]),
        ],
    ),
    (
        "blocks.{l}.attn.proj",
        &[Stored::As("encoder.layer.{l}.attention.output.dense"), Stored::As("layers.{l}.attention.o_proj")],
    ),
    (
        "blocks.{l}.norm2",
        &[Stored::As("encoder.layer.{l}.layernorm_after"), Stored::As("layers.{l}.layernorm_after")],
    ),
    (
        "blocks.{l}.mlp.fc1",
        &[Stored::As("encoder.layer.{l}.intermediate.dense"), Stored::As("layers.{l}.mlp.fc1")],
    ),
    ("blocks.{l}.mlp.fc2", &[Stored::As("encoder.layer.{l}.output.dense"), Stored::As("layers.{l}.mlp.fc2")]),
    ("norm", &[Stored::As("layernorm")]),
];
