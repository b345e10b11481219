//! DeiT (Touvron et al., 2021, <https://arxiv.org/abs/2012.12877>): ViT, with or without a distillation token.

use serde_json::Value;

use super::family::Family;
use super::fields::count_or;
use super::timm::{self, Draft, Name, Size};
use super::transformers::{self, Class, Task};
use super::vit;
use crate::error::Result;
use crate::names::{NameRow, NameTable, Stored};
use crate::positions::Resampling;
use crate::spec::{Embedding, MlpSpec, VitSpec};

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["deit_{size}[_distilled]_patch*_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[("VisionTransformerDistilled", "deit_tiny_distilled_patch16_224")],
    },
    transformers: &[Class {
        name: "DeiT",
        tasks: &[Task::Model, Task::Classification, Task::ClassificationWithTeacher],
        geometry,
        names: |spec| NameTable {
            prefix: "deit.",
            rows: &[&TOKENS, &vit::BODY],
            heads: if spec.embedding.distilled { &HEADS } else { &HEAD },
            ignored: &vit::IGNORED,
            one_tower: false,
        },
        resampling: Resampling::PlainBicubic,
        sized_by_processor: false,
        dialects: &[],
    }],
};

const SIZES: [Size; 3] =
    [Size::new("tiny", 192, 12, 3), Size::new("small", 384, 12, 6), Size::new("base", 768, 12, 12)];

fn named(name: &Name<'_>) -> Option<Draft> {
    let (size, distilled) = match name.before.as_slice() {
        ["deit", size] => (size, false),
        ["deit", size, "distilled"] => (size, true),
        _ => return None,
    };
    let [side] = name.after.as_slice() else { return None };
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, side.parse().ok()?);
    draft.spec.embedding.distilled = distilled;
    Some(draft)
}

fn geometry(config: &Value, task: Task) -> Result<VitSpec> {
    let spec = transformers::plain(config, task, 16)?;
    let mlp = MlpSpec::plain(count_or(config, "intermediate_size", 3072)?, transformers::activation(config)?);
    let distilled = task == Task::ClassificationWithTeacher;
    Ok(VitSpec {
        // Without its own head, the distillation token is a register with a position.
        embedding: Embedding { distilled, reg_tokens: usize::from(!distilled), ..Embedding::default() },
        mlp,
        ..spec
    })
}

const TOKENS: [NameRow; 2] = [
    ("dist_token", &[Stored::As("embeddings.distillation_token")]),
    ("reg_token", &[Stored::As("embeddings.distillation_token")]),
];

const HEAD: [NameRow; 1] = [("head", &[Stored::As("classifier")])];

const HEADS: [NameRow; 2] =
    [("head", &[Stored::As("cls_classifier")]), ("head_dist", &[Stored::As("distillation_classifier")])];
