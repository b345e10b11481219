//! SigLIP 2 in its NaFlex variant (Tschannen et al., 2025, <https://arxiv.org/abs/2502.14786>): each image keeps its aspect
//! ratio and has a grid of its own, to which the learned positions of a square grid are resampled. Otherwise it is SigLIP.

use serde_json::Value;

use super::clip;
use super::family::Family;
use super::fields::{count_or, wrong};
use super::siglip;
use super::timm;
use super::transformers::{Class, Task};
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{Embedding, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &[],
        sizes: &[],
        geometry: |_| None,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[Class {
        name: "Siglip2",
        tasks: &[Task::VisionModel, Task::Model, Task::Classification],
        geometry,
        names,
        resampling: Resampling::Bilinear,
        sized_by_processor: true,
        dialects: &[],
    }],
};

/// Most patches of an image, if the image processor does not say (transformers' `max_num_patches`).
const MAX_PATCHES: usize = 256;

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let mut spec = siglip::geometry(config, task)?;
    let positions = count_or(config.get("vision_config").unwrap_or(config), "num_patches", MAX_PATCHES)?;
    let side = positions.isqrt();
    if side * side != positions {
        return Err(wrong(format!(
            "num_patches = {positions} is not the number of patches of a square grid"
        )));
    }
    spec.embedding = Embedding { cropped: false, position_grid: Some([side, side]), ..spec.embedding };
    let size = [side * spec.patch_size; 2];
    Ok(spec.with_img_size(size))
}

/// Height and width of the images with the grid nearest to a square of those with as many patches as `processor` allows.
pub(super) fn usual_size(processor: Option<&Value>, patch_size: usize) -> Result<[usize; 2]> {
    let empty = Value::Null;
    let patches = count_or(processor.unwrap_or(&empty), "max_num_patches", MAX_PATCHES)?;
    let rows = patches.isqrt().max(1);
    Ok([rows, patches / rows].map(|side| side.saturating_mul(patch_size)))
}

fn names(spec: &VitSpec) -> NameTable {
    NameTable { rows: &[&PATCHES, &siglip::BODY, &clip::LAYERS], ..siglip::names(spec) }
}

const PATCHES: [NameRow; 2] = [
    ("patch_embed.proj.weight", &[Stored::ChannelsLast("embeddings.patch_embedding.weight")]),
    ("patch_embed.proj.bias", &[Stored::As("embeddings.patch_embedding.bias")]),
];
