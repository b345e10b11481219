//! DINOv2 (Oquab et al., 2023, <https://arxiv.org/abs/2304.07193>), with or without registers (Darcet et al., 2024,
//! <https://arxiv.org/abs/2309.16588>): LayerScale, SwiGLU in the giant model, any input size.

use serde_json::Value;

use super::family::Family;
use super::fields::{count_or, flag_or, number_or};
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{MlpActivation, MlpSpec, NormSpec, Pool, Positions, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["vit_{size}_patch*[_reg4]_dinov2"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[
        Class {
            name: "Dinov2",
            tasks: &TASKS,
            geometry,
            names: |spec| names("dinov2.", spec),
            resampling: Resampling::PlainBicubic,
            // Published at 518 pixels; it takes any size, and runs at the size that its processor gives.
            sized_by_processor: true,
            dialects: &[],
        },
        Class {
            name: "Dinov2WithRegisters",
            tasks: &TASKS,
            geometry: geometry_with_registers,
            names: |spec| names("dinov2_with_registers.", spec),
            resampling: Resampling::Bicubic,
            sized_by_processor: true,
            dialects: &[],
        },
    ],
};

const TASKS: [Task; 2] = [Task::Model, Task::Classification];

/// Side of timm's input images, pixels.
const SIDE: usize = 518;

const SIZES: [Size; 4] = [
    Size::new("small", 384, 12, 6),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    // As in timm: 4096 for each half of SwiGLU.
    Size { mlp_ratio: 2.66667 * 2.0, ..Size::new("giant", 1536, 40, 24) },
];

fn named(name: &Name<'_>) -> Option<Draft> {
    let ["vit", size] = name.before.as_slice() else { return None };
    let registers = match name.after.as_slice() {
        ["dinov2"] => 0,
        ["reg4", "dinov2"] => 4,
        _ => return None,
    };
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, SIDE);
    let spec = &mut draft.spec;
    spec.num_classes = 0;
    spec.layer_scale = true;
    spec.embedding.reg_tokens = registers;
    if registers > 0 {
        spec.positions = Positions::Patches;
    }
    if *size == "giant" {
        spec.mlp.activation = MlpActivation::SwiGlu;
    }
    Some(draft)
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let spec = transformers::plain(config, task, 14)?;
    let ratio = (spec.dim as f64 * number_or(config, "mlp_ratio", 4.0)?) as usize;
    let mlp = if flag_or(config, "use_swiglu_ffn", false)? {
        MlpSpec::plain((ratio * 2 / 3).next_multiple_of(8), MlpActivation::SwiGlu)
    } else {
        MlpSpec::plain(ratio, transformers::activation(config)?)
    };
    let mut pooling = spec.pooling;
    if spec.num_classes > 0 {
        pooling.pool = Pool::TokenAvg;
    }
    let norm = NormSpec::layer(number_or(config, "layer_norm_eps", 1e-6)? as f32);
    Ok(VitSpec { mlp, pooling, norm, layer_scale: true, ..spec })
}

fn geometry_with_registers(config: &Value, task: Task) -> Result<VitSpec> {
    let mut spec = geometry(config, task)?;
    spec.embedding.reg_tokens = count_or(config, "num_register_tokens", 4)?;
    spec.positions = Positions::ClassAndPatches;
    Ok(spec)
}

fn names(prefix: &'static str, spec: &VitSpec) -> NameTable {
    NameTable {
        prefix,
        rows: match spec.mlp.activation {
            MlpActivation::SwiGlu => &[&SWIGLU, &COMMON, &BODY],
            _ => &[&COMMON, &BODY],
        },
        heads: &[("head", &[Stored::As("classifier")])],
        ignored: &["embeddings.mask_token"],
        one_tower: false,
    }
}

/// Since transformers 5, the first layer may be stored in two halves.
const SWIGLU: [NameRow; 2] = [
    (
        "blocks.{l}.mlp.fc1",
        &[
            Stored::As("encoder.layer.{l}.mlp.weights_in"),
            Stored::Stacked(&["encoder.layer.{l}.mlp.gate_proj", "encoder.layer.{l}.mlp.up_proj"]),
        ],
    ),
    (
        "blocks.{l}.mlp.fc2",
        &[Stored::As("encoder.layer.{l}.mlp.weights_out"), Stored::As("encoder.layer.{l}.mlp.down_proj")],
    ),
];

/// What BEiT has, too. Each second way is the name in the memory of transformers 5.
pub(super) const COMMON: [NameRow; 6] = [
    ("patch_embed.proj", &[Stored::As("embeddings.patch_embeddings.projection")]),
    ("cls_token", &[Stored::As("embeddings.cls_token")]),
    ("pos_embed", &[Stored::As("embeddings.position_embeddings")]),
    (
        "blocks.{l}.attn.qkv",
        &[
            Stored::Stacked(&[
                "encoder.layer.{l}.attention.attention.query",
                "encoder.layer.{l}.attention.attention.key",
                "encoder.layer.{l}.attention.attention.value",
            ]),
            Stored::Stacked(&[
                "encoder.layer.{l}.attention.q_proj",
                "encoder.layer.{l}.attention.k_proj",
                "encoder.layer.{l}.attention.v_proj",
            ]),
        ],
    ),
    (
        "blocks.{l}.attn.proj",
        &[
            Stored::As("encoder.layer.{l}.attention.output.dense"),
            Stored::As("encoder.layer.{l}.attention.o_proj"),
        ],
    ),
    ("norm", &[Stored::As("layernorm")]),
];

const BODY: [NameRow; 7] = [
    ("reg_token", &[Stored::As("embeddings.register_tokens")]),
    ("blocks.{l}.norm1", &[Stored::As("encoder.layer.{l}.norm1")]),
    ("blocks.{l}.ls1.gamma", &[Stored::As("encoder.layer.{l}.layer_scale1.lambda1")]),
    ("blocks.{l}.norm2", &[Stored::As("encoder.layer.{l}.norm2")]),
    ("blocks.{l}.mlp.fc1", &[Stored::As("encoder.layer.{l}.mlp.fc1")]),
    ("blocks.{l}.mlp.fc2", &[Stored::As("encoder.layer.{l}.mlp.fc2")]),
    ("blocks.{l}.ls2.gamma", &[Stored::As("encoder.layer.{l}.layer_scale2.lambda1")]),
];
