//! timm's `NaFlexVit`, at one input size: learned positions of a square grid that are resampled to the grid of the input.
//! Images that keep their aspect ratio are those of [`naflex`](super::naflex), in transformers' form.

use serde_json::{Value, json};

use super::family::Family;
use super::fields::{flag, pair, shown, square, wrong};
use super::timm::{self, Draft, Effect, Live, Name, Size, TimmArgument, argument, fixed, only, sets};
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{MlpActivation, Pool, Positions, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["naflexvit_{size}_patch*[_par,_reg*]_{gap,map,siglip}"],
        sizes: &SIZES,
        geometry: named,
        class: &NAFLEX_VIT,
        modules: &[("NaFlexVit", "naflexvit_base_patch16_gap")],
    },
    transformers: &[],
};

const SIZES: [Size; 3] = [
    Size::new("base", 768, 12, 12),
    Size { mlp_ratio: 34.0 / 13.0, ..Size::new("so150m2", 832, 21, 13) },
    Size { mlp_ratio: 3.7362, ..Size::new("so400m", 1152, 27, 16) },
];

/// Rows and columns of the learned positions.
const GRID: usize = 16;

/// The input size that timm evaluates at, pixels.
const USUAL: usize = 384;

fn named(name: &Name<'_>) -> Option<Draft> {
    let ["naflexvit", size] = name.before.as_slice() else { return None };
    let (pool, registers, preserving) = match name.after.as_slice() {
        ["gap"] => (Pool::Avg, 4, false),
        ["par", "gap"] => (Pool::Avg, 4, true),
        ["map"] => (Pool::Map, 1, false),
        ["reg1", "gap"] => (Pool::Avg, 1, false),
        ["reg1", "map"] => (Pool::Map, 1, false),
        ["siglip"] => (Pool::Map, 0, false),
        _ => return None,
    };
    let siglip = name.after == ["siglip"];
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, 0);
    let interpolation = if siglip { Resampling::Bilinear } else { Resampling::Bicubic };
    draft.resampling = interpolation.preserving(preserving);
    draft.usual_size = Some([USUAL; 2]);
    let spec = &mut draft.spec;
    spec.img_size = [GRID.saturating_mul(spec.patch_size); 2];
    (spec.embedding.class_token, spec.embedding.reg_tokens) = (false, registers);
    (spec.positions, spec.pooling.pool) = (Positions::Patches, pool);
    spec.layer_scale = !siglip;
    spec.attention.qkv_bias = *size != "so150m2";
    if siglip {
        spec.num_classes = 0;
        spec.mlp.activation = MlpActivation::GeluTanh;
    }
    Some(draft)
}

/// Sets the input size of a configuration of this family, and that of its positions, to those of `spec`; `false` if it
/// is of another one.
pub(super) fn resize(config: &mut Value, spec: &VitSpec) -> bool {
    let name = config.get("architecture").and_then(Value::as_str).unwrap_or_default();
    if !name.starts_with("naflexvit_") {
        return false;
    }
    config["model_args"]["img_size"] = json!(spec.img_size);
    config["model_args"]["pos_embed_grid_size"] = json!(spec.grid());
    true
}

/// timm's `NaFlexVit`.
static NAFLEX_VIT: timm::Class =
    timm::Class { arguments: ARGUMENTS, shared: timm::ARGUMENTS, names: NAMES, dialects: &[] };

const NAMES: NameTable = NameTable {
    prefix: "",
    rows: &[&EMBEDDING, &timm::LAYER_SCALE],
    heads: &[],
    ignored: &[],
    one_tower: false,
};

const EMBEDDING: [NameRow; 5] = [
    ("patch_embed.proj.weight", &[Stored::ChannelsLast("embeds.proj.weight")]),
    ("patch_embed.proj.bias", &[Stored::As("embeds.proj.bias")]),
    ("pos_embed", &[Stored::Grid("embeds.pos_embed")]),
    ("cls_token", &[Stored::As("embeds.cls_token")]),
    ("reg_token", &[Stored::As("embeds.reg_token")]),
];

static ARGUMENTS: &[TimmArgument] = &[
    sets("img_size", Live::Unknown, |draft, named, value| {
        draft.usual_size = Some(pair(named, value)?);
        Ok(())
    }),
    sets("patch_size", Live::Value("embeds.patch_size"), |draft, named, value| {
        let (patch_size, grid) = (square(named, pair(named, value)?)?, draft.spec.grid());
        draft.spec.patch_size = patch_size;
        draft.spec.img_size = grid.map(|side| side.saturating_mul(patch_size));
        Ok(())
    }),
    argument("in_chans", Live::Value("embeds.in_chans"), Effect::Only("3")),
    sets("class_token", Live::Built("embeds.cls_token"), timm::class_token),
    sets("reg_tokens", Live::Value("embeds.num_reg_tokens"), timm::reg_tokens),
    sets("pos_embed", Live::Value("embeds.pos_embed_type"), |_, named, value| {
        fixed(named, value, &["learned", "learn"])
    }),
    sets("pos_embed_grid_size", Live::Value("embeds.pos_embed_grid_size"), |draft, named, value| {
        let grid = pair(named, value)?;
        if grid[0] != grid[1] || grid[0] == 0 {
            return Err(wrong(format!("{named} = {} is not a square grid", shown(value))));
        }
        draft.spec.img_size = grid.map(|side| side.saturating_mul(draft.spec.patch_size));
        Ok(())
    }),
    sets("pos_embed_interp_mode", Live::Value("embeds.pos_embed_interp_mode"), |draft, named, value| {
        fixed(named, value, &["bicubic", "bilinear"])?;
        let bicubic = *value == "bicubic";
        let interpolation = if bicubic { Resampling::Bicubic } else { Resampling::Bilinear };
        draft.resampling = interpolation.preserving(draft.resampling.is_preserving());
        Ok(())
    }),
    sets("pos_embed_ar_preserving", Live::Value("embeds.pos_embed_ar_preserving"), |draft, named, value| {
        draft.resampling = draft.resampling.preserving(flag(named, value)?);
        Ok(())
    }),
    argument("pos_embed_antialias", Live::First(&["embeds.pos_embed_antialias"]), Effect::Only("true")),
    argument(
        "pos_embed_align_corners",
        Live::First(&["embeds.pos_embed_align_corners"]),
        Effect::Only("false"),
    ),
    argument("pos_embed_use_grid_sample", Live::Unknown, Effect::Nothing),
    argument("patchify_channels_last", Live::First(&["embeds.channels_last"]), Effect::Only("true")),
    argument("enable_patch_interpolator", Live::Unknown, Effect::Nothing),
    argument("use_key_only_attn_mask", Live::Unknown, Effect::Nothing),
    only("embed_proj_type", "\"linear\""),
    only("attn_type", "\"standard\""),
    only("qkv_fused", "true"),
    sets("rope_type", Live::Built("rope"), |_, named, value| match value {
        Value::Bool(false) => Ok(()),
        value => fixed(named, value, &["", "none"]),
    }),
];
