//! DINOv3 (Siméoni et al., 2025, <https://arxiv.org/abs/2508.10104>): rotary position embeddings and no table of
//! positions; registers, LayerScale, keys without bias; a gated MLP in the sizes with a plus.

use serde_json::{Value, json};

use super::eva;
use super::family::Family;
use super::fields::{count_or, flag_or, number_or, wrong};
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{
    AttentionSpec, ChannelPairs, Coordinates, Embedding, MlpActivation, MlpSpec, Positions, Rope, VitSpec,
};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["vit_{size}_patch*_dinov3[_qkvb]"],
        sizes: &SIZES,
        geometry: named,
        class: &eva::EVA,
        modules: &[],
    },
    transformers: &[Class {
        name: "DINOv3ViT",
        tasks: &[Task::Model],
        geometry,
        names,
        resampling: Resampling::PlainBicubic,
        sized_by_processor: true,
        dialects: &[],
    }],
};

const SIZES: [Size; 7] = [
    Size::new("tiny", 192, 12, 3),
    Size::new("small", 384, 12, 6),
    Size::new("small_plus", 384, 12, 6),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size::new("huge_plus", 1280, 32, 20),
    Size { mlp_ratio: 2.0, ..Size::new("7b", 4096, 40, 32) },
];

/// Side of timm's input images, pixels.
const SIDE: usize = 256;

fn rope(theta: f32) -> Rope {
    Rope { theta, coordinates: Coordinates::Centred, pairs: ChannelPairs::Halves }
}

fn named(name: &Name<'_>) -> Option<Draft> {
    let ["vit", size @ ..] = name.before.as_slice() else { return None };
    let biased = match name.after.as_slice() {
        ["dinov3"] => false,
        ["dinov3", "qkvb"] => true,
        _ => return None,
    };
    let size = Size::find(&SIZES, &size.join("_"))?;
    let mut draft = eva::plain(name, size, SIDE);
    draft.fc_norm = Some(false);
    draft.hidden_ratio = Some(if size.name == "7b" { 64 } else { 8 });
    let spec = &mut draft.spec;
    spec.num_classes = 0;
    spec.layer_scale = true;
    spec.embedding.reg_tokens = 4;
    spec.positions = Positions::None;
    spec.norm.eps = 1e-5;
    spec.attention.qkv_bias = biased;
    spec.attention.rope = Some(rope(100.0));
    if matches!(size.name, "small_plus" | "huge_plus" | "7b") {
        spec.mlp.activation = MlpActivation::SwiGlu;
    }
    Some(draft)
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let defaults =
        [("hidden_size", json!(384)), ("num_attention_heads", json!(6)), ("layer_norm_eps", json!(1e-5))];
    let config = transformers::tower(config, &defaults);
    let spec = transformers::plain(&config, task, 16)?;
    let [query, key, value] = ["query_bias", "key_bias", "value_bias"];
    let [query, key, value] =
        [flag_or(&config, query, true)?, flag_or(&config, key, false)?, flag_or(&config, value, true)?];
    let (qkv_bias, unbiased_keys) = match (query, key, value) {
        (true, false, true) => (true, true),
        (false, false, false) => (false, false),
        (true, true, true) => (true, false),
        _ => {
            return Err(wrong(format!(
                "query_bias {query}, key_bias {key} and value_bias {value} are not supported together; vitrim runs \
                 queries and values with one bias each, all three with one, or none"
            )));
        }
    };
    let mut activation = transformers::activation(&config)?;
    if flag_or(&config, "use_gated_mlp", false)? {
        activation = MlpActivation::of(activation.function(), true);
    }
    let hidden = count_or(&config, "intermediate_size", 1536)?;
    let mlp = MlpSpec { bias: flag_or(&config, "mlp_bias", true)?, ..MlpSpec::plain(hidden, activation) };
    let attention = AttentionSpec {
        qkv_bias,
        unbiased_keys,
        proj_bias: flag_or(&config, "proj_bias", true)?,
        rope: Some(rope(number_or(&config, "rope_theta", 100.0)? as f32)),
        ..spec.attention
    };
    let reg_tokens = count_or(&config, "num_register_tokens", 0)?;
    let embedding = Embedding { reg_tokens, ..Embedding::default() };
    Ok(VitSpec { attention, mlp, embedding, positions: Positions::None, layer_scale: true, ..spec })
}

/// Without registers, transformers writes a tensor of none.
fn names(spec: &VitSpec) -> NameTable {
    match spec.embedding.reg_tokens {
        0 => NameTable { ignored: &WITHOUT_REGISTERS, ..NAMES },
        _ => NAMES,
    }
}

const WITHOUT_REGISTERS: [&str; 3] =
    ["embeddings.mask_token", "rope_embeddings.*", "embeddings.register_tokens"];

const NAMES: NameTable = NameTable {
    prefix: "dinov3_vit.",
    rows: &[&BODY],
    heads: &[],
    ignored: &["embeddings.mask_token", "rope_embeddings.*"],
    one_tower: false,
};

/// Since transformers 5, the layers may be stored under `model.`.
const BODY: [NameRow; 14] = [
    ("patch_embed.proj", &[Stored::As("embeddings.patch_embeddings")]),
    ("cls_token", &[Stored::As("embeddings.cls_token")]),
    ("reg_token", &[Stored::As("embeddings.register_tokens")]),
    ("blocks.{l}.norm1", &[Stored::As("layer.{l}.norm1"), Stored::As("model.layer.{l}.norm1")]),
    (
        "blocks.{l}.attn.qkv",
        &[
            Stored::Stacked(&[
                "layer.{l}.attention.q_proj",
                "layer.{l}.attention.k_proj",
                "layer.{l}.attention.v_proj",
            ]),
            Stored::Stacked(&[
                "model.layer.{l}.attention.q_proj",
                "model.layer.{l}.attention.k_proj",
                "model.layer.{l}.attention.v_proj",
            ]),
        ],
    ),
    (
        "blocks.{l}.attn.q_bias",
        &[Stored::As("layer.{l}.attention.q_proj.bias"), Stored::As("model.layer.{l}.attention.q_proj.bias")],
    ),
    (
        "blocks.{l}.attn.v_bias",
        &[Stored::As("layer.{l}.attention.v_proj.bias"), Stored::As("model.layer.{l}.attention.v_proj.bias")],
    ),
    (
        "blocks.{l}.attn.proj",
        &[Stored::As("layer.{l}.attention.o_proj"), Stored::As("model.layer.{l}.attention.o_proj")],
    ),
    (
        "blocks.{l}.ls1.gamma",
        &[Stored::As("layer.{l}.layer_scale1.lambda1"), Stored::As("model.layer.{l}.layer_scale1.lambda1")],
    ),
    ("blocks.{l}.norm2", &[Stored::As("layer.{l}.norm2"), Stored::As("model.layer.{l}.norm2")]),
    (
        "blocks.{l}.mlp.fc1",
        &[
            Stored::Stacked(&["layer.{l}.mlp.gate_proj", "layer.{l}.mlp.up_proj"]),
            Stored::Stacked(&["model.layer.{l}.mlp.gate_proj", "model.layer.{l}.mlp.up_proj"]),
            Stored::As("layer.{l}.mlp.up_proj"),
            Stored::As("model.layer.{l}.mlp.up_proj"),
        ],
    ),
    (
        "blocks.{l}.mlp.fc2",
        &[Stored::As("layer.{l}.mlp.down_proj"), Stored::As("model.layer.{l}.mlp.down_proj")],
    ),
    (
        "blocks.{l}.ls2.gamma",
        &[Stored::As("layer.{l}.layer_scale2.lambda1"), Stored::As("model.layer.{l}.layer_scale2.lambda1")],
    ),
    ("norm", &[Stored::As("norm")]),
];
