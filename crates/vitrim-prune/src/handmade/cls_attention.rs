//! Selection by the class token's attention.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::{Acts, HandMade, KeepProfile};
use crate::pruner::{ImageKey, PruneError, Pruner, Result};
use crate::ranking::keep_top;

pub(super) const METHOD: HandMade = HandMade {
    name: "cls-attention",
    about: "keeps what the class token attends to",
    // No attention has run before block 0.
    first_block: 1,
    keeps_budgets: true,
    acts: Acts::AtStages(|profile| Box::new(ClsAttentionPruner { profile })),
};

/// Keeps the patch tokens to which the class token attended most in the previous block, mean over heads
/// (EViT's selection, without its fused token; Liang et al., ICLR 2022). Without a class token: those
/// that received the most attention.
#[derive(Clone, Debug)]
struct ClsAttentionPruner {
    profile: KeepProfile,
}

impl Pruner for ClsAttentionPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.profile.sites(Taps::CLS_ATTENTION)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        Ok(keep_top(view, class_attention(view)?, |b| {
            self.profile.patch_tokens(stage, b, view.num_patches(b))
        }))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0 // attention is computed anyway; ranking multiplies nothing
    }
}

/// The class token's attention that the pruner asked for, `[T]`.
pub(super) fn class_attention<'s>(view: &View<'s>) -> Result<&'s [f32]> {
    let missing = || PruneError::KeepProfile("needs a view that carries the class token's attention".into());
    view.cls_attention.ok_or_else(missing)
}
