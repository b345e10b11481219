//! timm's `Eva`: EVA-02 (Fang et al., 2023, <https://arxiv.org/abs/2303.11331>), the Perception Encoder (Bolya et al.,
//! 2025, <https://arxiv.org/abs/2504.13181>) and DINOv3 (`dinov3.rs`): rotary position embeddings.

use vitrim_kernels::Activation;

use super::authors;
use super::family::Family;
use super::fields::{count, flag, number, pair};
use super::timm::{self, Draft, Effect, Live, Name, Size, TimmArgument, not_supported, only, sets};
use crate::names::{NameRow, NameTable, Stored};
use crate::spec::{ChannelPairs, Coordinates, MlpActivation, Pool, Positions, Rope};

pub(super) const EVA02: Family = Family {
    timm: timm::Names {
        patterns: &["eva02_{size}_patch*[_clip]_*"],
        sizes: &EVA02_SIZES,
        geometry: eva02,
        class: &EVA,
        modules: &[("Eva", "eva02_tiny_patch14_224")],
    },
    transformers: &[],
};

pub(super) const PE_CORE: Family = Family {
    timm: timm::Names {
        patterns: &["vit_pe_core_{size}_patch*_*"],
        sizes: &PE_SIZES,
        geometry: pe_core,
        class: &EVA,
        modules: &[],
    },
    transformers: &[],
};

const EVA02_RATIO: f64 = 4.0 * 2.0 / 3.0;

const EVA02_SIZES: [Size; 4] = [
    Size { mlp_ratio: EVA02_RATIO, ..Size::new("tiny", 192, 12, 3) },
    Size { mlp_ratio: EVA02_RATIO, ..Size::new("small", 384, 12, 6) },
    Size { mlp_ratio: EVA02_RATIO, ..Size::new("base", 768, 12, 12) },
    Size { mlp_ratio: EVA02_RATIO, ..Size::new("large", 1024, 24, 16) },
];

const PE_SIZES: [Size; 5] = [
    Size::new("tiny", 192, 12, 3),
    Size::new("small", 384, 12, 6),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size { mlp_ratio: 8960.0 / 1536.0, ..Size::new("gigantic", 1536, 50, 16) },
];

/// timm's `Eva` of `size` for square inputs of `side` pixels: queries and values have a bias, keys have none.
pub(super) fn plain(name: &Name<'_>, size: Size, side: usize) -> Draft {
    let mut draft = Draft::plain(name, size, side);
    (draft.hidden_ratio, draft.pool_prefix) = (Some(1), true);
    draft.pool.2 = Some(MlpActivation::Gelu);
    draft.spec.attention.unbiased_keys = true;
    draft.spec.pooling.pool = Pool::Avg;
    draft
}

fn eva02(name: &Name<'_>) -> Option<Draft> {
    let ["eva02", size] = name.before.as_slice() else { return None };
    let (clip, side) = match name.after.as_slice() {
        [side] => (false, side),
        // EVA-02's CLIP (Sun et al., 2023, <https://arxiv.org/abs/2303.15389>).
        ["clip", side] if matches!(*size, "base" | "large") => (true, side),
        _ => return None,
    };
    let mut draft = plain(name, Size::find(&EVA02_SIZES, size)?, side.parse().ok()?);
    let spec = &mut draft.spec;
    spec.mlp.activation = MlpActivation::SwiGlu;
    spec.mlp.norm = matches!(*size, "base" | "large");
    if clip {
        spec.attention.inner_norm = true;
        spec.pooling.pool = Pool::Token;
    }
    spec.attention.rope = Some(Rope {
        theta: 10_000.0,
        coordinates: Coordinates::Cells { offset: 0.0, reference: Some([16, 16]), columns_first: false },
        pairs: ChannelPairs::Neighbours,
    });
    Some(draft)
}

fn pe_core(name: &Name<'_>) -> Option<Draft> {
    let (["vit", "pe", "core", size], [side]) = (name.before.as_slice(), name.after.as_slice()) else {
        return None;
    };
    let mut draft = plain(name, Size::find(&PE_SIZES, size)?, side.parse().ok()?);
    let gigantic = *size == "gigantic";
    draft.set_pre_norm(true);
    draft.pool = (Some(8), Some(4.0), Some(MlpActivation::Gelu));
    let grid = draft.spec.grid();
    let spec = &mut draft.spec;
    spec.num_classes = 0;
    spec.norm.eps = 1e-5;
    spec.embedding.class_token = !gigantic;
    spec.pooling.pool = Pool::Map;
    spec.attention.unbiased_keys = false;
    spec.attention.rope = Some(Rope {
        theta: 10_000.0,
        coordinates: Coordinates::Cells {
            offset: if gigantic { 0.0 } else { 1.0 },
            reference: Some(grid),
            columns_first: true,
        },
        pairs: ChannelPairs::Neighbours,
    });
    Some(draft)
}

/// timm's `Eva`.
pub(super) static EVA: timm::Class =
    timm::Class { arguments: ARGUMENTS, shared: timm::ARGUMENTS, names: NAMES, dialects: &authors::OF_EVA };

pub(super) const NAMES: NameTable = NameTable {
    prefix: "",
    rows: &[&timm::LAYER_SCALE, &ATTENTION, &GATES],
    heads: &[],
    ignored: &["mask_token", "rope.*"],
    one_tower: false,
};

const ATTENTION: [NameRow; 4] = [
    (
        "blocks.{l}.attn.norm",
        &[Stored::As("blocks.{l}.attn.norm"), Stored::As("blocks.{l}.attn.inner_attn_ln")],
    ),
    (
        "blocks.{l}.attn.qkv",
        &[
            Stored::As("blocks.{l}.attn.qkv"),
            Stored::Stacked(&["blocks.{l}.attn.q_proj", "blocks.{l}.attn.k_proj", "blocks.{l}.attn.v_proj"]),
        ],
    ),
    (
        "blocks.{l}.attn.q_bias",
        &[Stored::As("blocks.{l}.attn.q_bias"), Stored::As("blocks.{l}.attn.q_proj.bias")],
    ),
    (
        "blocks.{l}.attn.v_bias",
        &[Stored::As("blocks.{l}.attn.v_bias"), Stored::As("blocks.{l}.attn.v_proj.bias")],
    ),
];

/// Each last way is the authors'.
pub(super) const GATES: [NameRow; 3] = [
    (
        "blocks.{l}.mlp.fc1",
        &[
            Stored::As("blocks.{l}.mlp.fc1"),
            Stored::Stacked(&["blocks.{l}.mlp.fc1_g", "blocks.{l}.mlp.fc1_x"]),
            Stored::As("blocks.{l}.mlp.w12"),
            Stored::Stacked(&["blocks.{l}.mlp.w1", "blocks.{l}.mlp.w2"]),
        ],
    ),
    ("blocks.{l}.mlp.norm", &[Stored::As("blocks.{l}.mlp.norm"), Stored::As("blocks.{l}.mlp.ffn_ln")]),
    ("blocks.{l}.mlp.fc2", &[Stored::As("blocks.{l}.mlp.fc2"), Stored::As("blocks.{l}.mlp.w3")]),
];

static ARGUMENTS: &[TimmArgument] = &[
    sets("num_reg_tokens", Live::First(&["reg_token.shape.1"]), timm::reg_tokens),
    sets("swiglu_mlp", Live::Class("blocks.0.mlp"), |draft, named, value| {
        let gated = match value.as_str() {
            Some("SwiGLU" | "GluMlp") => true,
            Some("Mlp") => false,
            _ => flag(named, value)?,
        };
        let activation = &mut draft.spec.mlp.activation;
        match (gated, *activation == MlpActivation::SwiGlu) {
            (true, false) => *activation = MlpActivation::SwiGlu,
            (false, true) => *activation = MlpActivation::Gelu,
            _ => {}
        }
        Ok(())
    }),
    // A gated MLP of timm's `Eva` has SiLU, whatever is given.
    sets("act_layer", Live::Class("blocks.0.mlp.act"), |draft, named, value| {
        let (function, activation) = (timm::function(named, value)?, &mut draft.spec.mlp.activation);
        match (*activation, function) {
            (MlpActivation::SwiGlu, Activation::Silu) => {}
            (MlpActivation::SwiGlu, _) => return Err(not_supported(named, value)),
            _ => *activation = MlpActivation::of(function, false),
        }
        Ok(())
    }),
    sets("swiglu_align_to", Live::Unknown, |draft, named, value| {
        draft.hidden_ratio = Some(count(named, value)?.max(1));
        Ok(())
    }),
    sets("scale_mlp", Live::Built("blocks.0.mlp.norm"), |draft, named, value| {
        draft.spec.mlp.norm = flag(named, value)?;
        Ok(())
    }),
    sets("use_abs_pos_emb", Live::Built("pos_embed"), |draft, named, value| {
        let there = flag(named, value)?;
        if there != (draft.spec.positions != Positions::None) {
            draft.spec.positions = if there { Positions::All } else { Positions::None };
        }
        Ok(())
    }),
    sets("use_rot_pos_emb", Live::Built("rope"), |draft, named, value| {
        match (flag(named, value)?, draft.spec.attention.rope.is_some()) {
            (false, _) => draft.spec.attention.rope = None,
            (true, true) => {}
            (true, false) => return Err(not_supported(named, value)),
        }
        Ok(())
    }),
    sets("rope_type", Live::Class("rope"), |draft, named, value| {
        let built = match draft.spec.attention.rope.map(|rope| rope.coordinates) {
            Some(Coordinates::Centred) => ["dinov3", "RotaryEmbeddingDinoV3", "NoneType"],
            Some(Coordinates::Cells { .. }) => ["cat", "RotaryEmbeddingCat", "NoneType"],
            None => return Ok(()),
        };
        timm::fixed(named, value, &built)
    }),
    sets("rope_temperature", Live::First(&["rope.temperature"]), |draft, named, value| {
        let theta = number(named, value)? as f32;
        draft.spec.attention.rope.iter_mut().for_each(|rope| rope.theta = theta);
        Ok(())
    }),
    sets("rope_grid_offset", Live::First(&["rope.grid_offset"]), |draft, named, value| {
        let given = number(named, value)? as f32;
        if let Some(Coordinates::Cells { offset, .. }) = coordinates(draft) {
            *offset = given;
        }
        Ok(())
    }),
    sets("rope_grid_indexing", Live::First(&["rope.grid_indexing"]), |draft, named, value| {
        let xy = match value.as_str() {
            Some("ij") => false,
            Some("xy") => true,
            _ => return Err(not_supported(named, value)),
        };
        if let Some(Coordinates::Cells { columns_first, .. }) = coordinates(draft) {
            *columns_first = xy;
        }
        Ok(())
    }),
    sets("ref_feat_shape", Live::First(&["rope.ref_feat_shape"]), |draft, named, value| {
        let grid = pair(named, value)?;
        if let Some(Coordinates::Cells { reference, .. }) = coordinates(draft) {
            *reference = Some(grid);
        }
        Ok(())
    }),
    sets("rope_rotate_half", Live::First(&["blocks.0.attn.rotate_half"]), |draft, named, value| {
        let halves = flag(named, value)?;
        match draft.spec.attention.rope.map(|rope| rope.pairs == ChannelPairs::Halves) {
            Some(built) if built != halves => Err(not_supported(named, value)),
            _ => Ok(()),
        }
    }),
    sets("use_pre_transformer_norm", Live::Unknown, |draft, named, value| {
        draft.set_pre_norm(flag(named, value)?);
        Ok(())
    }),
    sets("use_fc_norm", Live::Unknown, |draft, named, value| {
        draft.fc_norm = Some(flag(named, value)?);
        Ok(())
    }),
    sets("attn_type", Live::Class("blocks.0.attn"), |draft, named, value| {
        draft.spec.attention.unbiased_keys = match value.as_str() {
            Some("eva" | "EvaAttention") => true,
            Some("rope" | "AttentionRope") => false,
            _ => return Err(not_supported(named, value)),
        };
        Ok(())
    }),
    sets("attn_pool_num_heads", Live::First(&["attn_pool.num_heads"]), |draft, named, value| {
        draft.pool.0 = Some(count(named, value)?);
        Ok(())
    }),
    sets("attn_pool_mlp_ratio", Live::Unknown, |draft, named, value| {
        draft.pool.1 = Some(number(named, value)?);
        Ok(())
    }),
    sets("scale_attn_inner", Live::Built("blocks.0.attn.norm"), |draft, named, value| {
        draft.spec.attention.inner_norm = flag(named, value)?;
        Ok(())
    }),
    only("use_post_norm", "false"),
    // Not timm arguments: the class of the blocks, which a norm after the branches changes, and what a live module tells
    // otherwise than timm's VisionTransformer does.
    sets("block", Live::Class("blocks.0"), |_, named, value| timm::fixed(named, value, &["EvaBlock"])),
    sets(
        "qkv_bias",
        Live::AnyBuilt(&["blocks.0.attn.q_bias", "blocks.0.attn.qkv.bias", "blocks.0.attn.q_proj.bias"]),
        |draft, named, value| {
            draft.spec.attention.qkv_bias = flag(named, value)?;
            Ok(())
        },
    ),
    sets("mlp_ratio", Live::Ratio(&["blocks.0.mlp.fc2.in_features"], "embed_dim"), |draft, named, value| {
        draft.mlp_ratio = number(named, value)?;
        Ok(())
    }),
    timm::argument(
        "init_values",
        Live::Built("blocks.0.gamma_1"),
        Effect::SetsGiven(|spec, given| spec.layer_scale = given),
    ),
    timm::argument("mlp_layer", Live::Unknown, Effect::Nothing),
    only("scale_attn_norm", "false"),
    only("scale_mlp_norm", "false"),
    only("gate_last", "false"),
    timm::argument("qkv_fused", Live::Unknown, Effect::Nothing),
    timm::argument("head_init_scale", Live::Unknown, Effect::Nothing),
    // Every Eva that is named here has a final norm, before or after pooling.
    only("use_post_transformer_norm", "null"),
];

fn coordinates(draft: &mut Draft) -> Option<&mut Coordinates> {
    draft.spec.attention.rope.as_mut().map(|rope| &mut rope.coordinates)
}
