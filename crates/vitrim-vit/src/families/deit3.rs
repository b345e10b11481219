//! DeiT-III (Touvron et al., 2022, <https://arxiv.org/abs/2204.07118>): LayerScale; the class token has no position
//! embedding.

use super::family::Family;
use super::timm::{self, Draft, Name, Size};
use crate::spec::Positions;

pub(super) const FAMILY: Family = Family {
    timm: timm::Names {
        patterns: &["deit3_{size}_patch*_*"],
        sizes: &SIZES,
        geometry: named,
        class: &timm::VISION_TRANSFORMER,
        modules: &[],
    },
    transformers: &[],
};

const SIZES: [Size; 5] = [
    Size::new("small", 384, 12, 6),
    Size::new("medium", 512, 12, 8),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size::new("huge", 1280, 32, 16),
];

fn named(name: &Name<'_>) -> Option<Draft> {
    let (["deit3", size], [side]) = (name.before.as_slice(), name.after.as_slice()) else { return None };
    let mut draft = Draft::plain(name, Size::find(&SIZES, size)?, side.parse().ok()?);
    draft.spec.positions = Positions::Patches;
    draft.spec.layer_scale = true;
    Some(draft)
}
