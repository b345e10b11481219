//! BEiT without relative position biases: BEiT-3's image branch (Wang et al., 2022, <https://arxiv.org/abs/2208.10442>) in
//! timm, with norms within attention and MLP; and transformers' `Beit` with a table of positions, such as DiT (Li et al.,
//! 2022, <https://arxiv.org/abs/2203.02378>). Other BEiTs are refused.

use serde_json::Value;

use super::dinov2;
use super::family::Family;
use super::fields::{count_or, flag_or, number_or, wrong};
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{AttentionSpec, MlpSpec, Pool, Pooling, Positions, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["beit3_{size}_patch*_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[Class {
        name: "Beit",
        tasks: &[Task::Model, Task::Classification],
        geometry,
        names: |_| NAMES,
        resampling: Resampling::PlainBicubic,
        sized_by_processor: false,
        dialects: &[],
    }],
};

const SIZES: [Size; 3] = [
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size { mlp_ratio: 4.3637, ..Size::new("giant", 1408, 40, 16) },
];

fn named(name: &Name<'_>) -> Option<Draft> {
    let (["beit3", size], [side]) = (name.before.as_slice(), name.after.as_slice()) else { return None };
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, side.parse().ok()?);
    let spec = &mut draft.spec;
    (spec.attention.inner_norm, spec.mlp.norm) = (true, true);
    spec.pooling.pool = Pool::Avg;
    spec.norm.eps = 1e-5;
    Some(draft)
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let biased = ["use_relative_position_bias", "use_shared_relative_position_bias"];
    let positions = flag_or(config, "use_absolute_position_embeddings", false)?;
    if !positions || flag_or(config, biased[0], false)? || flag_or(config, biased[1], false)? {
        return Err(wrong(format!(
            "{}: it needs a relative position bias, which is not supported; vitrim runs BEiT with \
             use_absolute_position_embeddings and without {} and {}",
            transformers::class_name(config)?,
            biased[0],
            biased[1]
        )));
    }
    let spec = transformers::plain(config, task, 16)?;
    let mlp = MlpSpec::plain(count_or(config, "intermediate_size", 3072)?, transformers::activation(config)?);
    let pool = if flag_or(config, "use_mean_pooling", true)? { Pool::Avg } else { Pool::Token };
    Ok(VitSpec {
        mlp,
        positions: Positions::All,
        attention: AttentionSpec { unbiased_keys: true, ..spec.attention },
        layer_scale: number_or(config, "layer_scale_init_value", 0.1)? > 0.0,
        pooling: Pooling::plain(pool, pool == Pool::Avg),
        ..spec
    })
}

const NAMES: NameTable = NameTable {
    prefix: "beit.",
    rows: &[&dinov2::COMMON, &BODY],
    heads: &[("head", &[Stored::As("classifier")])],
    ignored: &["embeddings.mask_token"],
    one_tower: false,
};

/// Each second way is the name in the memory of transformers 5.
const BODY: [NameRow; 9] = [
    ("blocks.{l}.norm1", &[Stored::As("encoder.layer.{l}.layernorm_before")]),
    (
        "blocks.{l}.attn.q_bias",
        &[
            Stored::As("encoder.layer.{l}.attention.attention.query.bias"),
            Stored::As("encoder.layer.{l}.attention.q_proj.bias"),
        ],
    ),
    (
        "blocks.{l}.attn.v_bias",
        &[
            Stored::As("encoder.layer.{l}.attention.attention.value.bias"),
            Stored::As("encoder.layer.{l}.attention.v_proj.bias"),
        ],
    ),
    ("blocks.{l}.ls1.gamma", &[Stored::As("encoder.layer.{l}.lambda_1")]),
    ("blocks.{l}.norm2", &[Stored::As("encoder.layer.{l}.layernorm_after")]),
    (
        "blocks.{l}.mlp.fc1",
        &[Stored::As("encoder.layer.{l}.intermediate.dense"), Stored::As("encoder.layer.{l}.mlp.fc1")],
    ),
    (
        "blocks.{l}.mlp.fc2",
        &[Stored::As("encoder.layer.{l}.output.dense"), Stored::As("encoder.layer.{l}.mlp.fc2")],
    ),
    ("blocks.{l}.ls2.gamma", &[Stored::As("encoder.layer.{l}.lambda_2")]),
    // Over the mean of the patches, or over the tokens.
    ("fc_norm", &[Stored::As("pooler.layernorm")]),
];
