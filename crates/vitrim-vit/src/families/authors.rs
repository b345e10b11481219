//! Tensor names in files of the models' authors, and of open_clip, for backbones that timm describes: OpenAI's CLIP and
//! Meta's Perception Encoder, DINOv2 and DINOv3, Apple's AIMv2, and towers within open_clip. timm reads the same
//! (`checkpoint_filter_fn` of `timm/models/vision_transformer.py` and `eva.py`).

use super::{eva, timm};
use crate::names::{Dialect, NameRow, NameTable, Stored};
use crate::spec::{Positions, VitSpec};
use crate::weight_files::WeightFiles;

/// Of timm's `VisionTransformer`.
pub(super) const OF_VISION_TRANSFORMER: [Dialect; 4] = [
    Dialect { mark: "visual.conv1.weight", names: OPENAI, adapt: projected },
    Dialect {
        mark: TRUNK,
        names: NameTable { prefix: "visual.trunk.", heads: &TRUNK_HEAD, one_tower: true, ..timm::NAMES },
        adapt: projected,
    },
    Dialect {
        mark: "register_tokens",
        names: NameTable { rows: &[&DINOV2, &timm::LAYER_SCALE, &eva::GATES], ..timm::NAMES },
        // timm adds the class token's position to the class token.
        adapt: |spec, _| spec.positions = Positions::ClassAndPatches,
    },
    APPLE,
];

/// Of AIMv2, as Apple wrote it. Where there is no table, positions are computed.
pub(super) const APPLE: Dialect = Dialect {
    mark: "preprocessor.patchifier.proj.weight",
    names: AIMV2,
    adapt: |spec, files| {
        if files.shape("preprocessor.pos_embed").is_none() {
            spec.positions = Positions::Sines;
        }
    },
};

/// Of timm's `Eva`.
pub(super) const OF_EVA: [Dialect; 4] = [
    Dialect { mark: "visual.conv1.weight", names: OPENAI, adapt: projected },
    Dialect {
        mark: "attn_pool.probe",
        names: NameTable { prefix: "", one_tower: false, ..OPENAI },
        adapt: projected,
    },
    Dialect {
        mark: TRUNK,
        names: NameTable { prefix: "visual.trunk.", heads: &TRUNK_HEAD, one_tower: true, ..eva::NAMES },
        adapt: projected,
    },
    Dialect {
        mark: "storage_tokens",
        names: NameTable {
            prefix: "",
            rows: &[&DINOV3, &timm::LAYER_SCALE, &eva::GATES],
            heads: &[],
            ignored: &["mask_token", "rope_embed.*", "local_cls_norm.*", "*.bias_mask"],
            one_tower: false,
        },
        // timm leaves the biases out where all of them are 0.
        adapt: |spec, _| {
            spec.attention.qkv_bias = true;
            spec.attention.unbiased_keys = true;
        },
    },
];

/// A tensor of a tower of timm's within open_clip.
const TRUNK: &str = "visual.trunk.patch_embed.proj.weight";

/// The projection outside of the tower, or the tower's own classifier.
const TRUNK_HEAD: [NameRow; 1] =
    [("visual_projection", &[Stored::As("visual.head.proj"), Stored::As("visual.trunk.head")])];

/// A projection in the file gives the image embedding, and takes the place of timm's classifier.
fn projected(spec: &mut VitSpec, files: &WeightFiles) {
    let shape = |name: &str| files.shape(name).map(<[usize]>::to_vec);
    let width = match (shape("visual.proj").or_else(|| shape("proj")), shape("visual.head.proj.weight")) {
        (Some(from_the_right), _) => from_the_right.last().copied(),
        (None, Some(linear)) => linear.first().copied(),
        (None, None) => shape("visual.trunk.head.weight").and_then(|head| head.first().copied()),
    };
    let bias = ["visual.head.proj.bias", "visual.trunk.head.bias"];
    spec.pooling.projection = width;
    spec.pooling.projection_bias = bias.iter().any(|name| files.shape(name).is_some());
    spec.num_classes = 0;
}

/// OpenAI's CLIP, open_clip's own towers, and Meta's Perception Encoder.
pub(super) const OPENAI: NameTable =
    NameTable { prefix: "visual.", rows: &[&CLIP], heads: &[], ignored: &["rope.*"], one_tower: true };

const CLIP: [NameRow; 25] = [
    ("patch_embed.proj", &[Stored::As("conv1")]),
    ("cls_token", &[Stored::Flat("class_embedding")]),
    ("pos_embed", &[Stored::Flat("positional_embedding")]),
    ("norm_pre", &[Stored::As("ln_pre")]),
    ("blocks.{l}.norm1", &[Stored::As("transformer.resblocks.{l}.ln_1")]),
    ("blocks.{l}.attn.qkv.weight", &[Stored::As("transformer.resblocks.{l}.attn.in_proj_weight")]),
    ("blocks.{l}.attn.qkv.bias", &[Stored::As("transformer.resblocks.{l}.attn.in_proj_bias")]),
    ("blocks.{l}.attn.proj", &[Stored::As("transformer.resblocks.{l}.attn.out_proj")]),
    ("blocks.{l}.ls1.gamma", &[Stored::As("transformer.resblocks.{l}.ls_1.gamma")]),
    ("blocks.{l}.norm2", &[Stored::As("transformer.resblocks.{l}.ln_2")]),
    ("blocks.{l}.mlp.fc1", &[Stored::As("transformer.resblocks.{l}.mlp.c_fc")]),
    ("blocks.{l}.mlp.fc2", &[Stored::As("transformer.resblocks.{l}.mlp.c_proj")]),
    ("blocks.{l}.ls2.gamma", &[Stored::As("transformer.resblocks.{l}.ls_2.gamma")]),
    ("norm", &[Stored::As("ln_post")]),
    ("fc_norm", &[Stored::As("ln_post")]),
    ("attn_pool.latent", &[Stored::As("attn_pool.probe")]),
    ("attn_pool.q.weight", &[Stored::Share("attn_pool.attn.in_proj_weight", 0, 1, 3)]),
    ("attn_pool.q.bias", &[Stored::Share("attn_pool.attn.in_proj_bias", 0, 1, 3)]),
    ("attn_pool.kv.weight", &[Stored::Share("attn_pool.attn.in_proj_weight", 1, 3, 3)]),
    ("attn_pool.kv.bias", &[Stored::Share("attn_pool.attn.in_proj_bias", 1, 3, 3)]),
    ("attn_pool.proj", &[Stored::As("attn_pool.attn.out_proj")]),
    ("attn_pool.norm", &[Stored::As("attn_pool.layernorm")]),
    ("attn_pool.mlp.fc1", &[Stored::As("attn_pool.mlp.c_fc")]),
    ("attn_pool.mlp.fc2", &[Stored::As("attn_pool.mlp.c_proj")]),
    ("visual_projection.weight", &[Stored::Transposed("proj")]),
];

const DINOV2: [NameRow; 1] = [("reg_token", &[Stored::As("register_tokens")])];

/// The keys' third of the bias is masked.
const DINOV3: [NameRow; 3] = [
    ("reg_token", &[Stored::As("storage_tokens")]),
    ("blocks.{l}.attn.q_bias", &[Stored::Share("blocks.{l}.attn.qkv.bias", 0, 1, 3)]),
    ("blocks.{l}.attn.v_bias", &[Stored::Share("blocks.{l}.attn.qkv.bias", 2, 3, 3)]),
];

const AIMV2: NameTable =
    NameTable { prefix: "", rows: &[&AIMV2_ROWS], heads: &[], ignored: &[], one_tower: false };

const AIMV2_ROWS: [NameRow; 10] = [
    ("patch_embed.proj", &[Stored::As("preprocessor.patchifier.proj")]),
    ("patch_embed.norm", &[Stored::As("preprocessor.patchifier.norm")]),
    ("pos_embed", &[Stored::As("preprocessor.pos_embed")]),
    ("blocks.{l}.norm1", &[Stored::As("trunk.blocks.{l}.norm_1")]),
    ("blocks.{l}.attn.qkv", &[Stored::As("trunk.blocks.{l}.attn.qkv")]),
    ("blocks.{l}.attn.proj", &[Stored::As("trunk.blocks.{l}.attn.proj")]),
    ("blocks.{l}.norm2", &[Stored::As("trunk.blocks.{l}.norm_2")]),
    ("blocks.{l}.mlp.fc1", &[Stored::Stacked(&["trunk.blocks.{l}.mlp.fc1", "trunk.blocks.{l}.mlp.fc3"])]),
    ("blocks.{l}.mlp.fc2", &[Stored::As("trunk.blocks.{l}.mlp.fc2")]),
    ("norm", &[Stored::As("trunk.post_trunk_norm")]),
];
