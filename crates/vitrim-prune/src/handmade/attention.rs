//! Selection by the class token's attention, with and without a fused token.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::KeepProfile;
use crate::pruner::{ImageKey, PruneError, Pruner, Result};
use crate::ranking::{keep_top, rank};

/// Keeps the patch tokens to which the class token attended most in the previous block, mean over heads
/// (EViT's selection, without its fused token; Liang et al., ICLR 2022). Without a class token: those
/// that received the most attention.
#[derive(Clone, Debug)]
pub struct ClsAttentionPruner {
    profile: KeepProfile,
}

impl ClsAttentionPruner {
    /// # Errors
    /// [`PruneError::KeepProfile`] if a stage lies before block 1, where no attention has run yet.
    pub fn new(profile: KeepProfile) -> Result<Self> {
        if profile.stages.first() == Some(&0) {
            return Err(PruneError::KeepProfile("cls-attention cannot act before block 1".into()));
        }
        Ok(ClsAttentionPruner { profile })
    }
}

impl Pruner for ClsAttentionPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.profile.sites(Taps::CLS_ATTENTION)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        Ok(keep_top(view, tapped(view)?, |b| self.profile.patch_tokens(stage, b)))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0 // attention is computed anyway; ranking multiplies nothing
    }
}

/// EViT (Liang et al., ICLR 2022): between attention and MLP of each stage's block, the patch tokens to which the
/// class token attends most stay, and the rest becomes one token, their sum weighted by that attention. The
/// fused token takes part in what follows, later selections included. `patch_tokens` counts without it.
#[derive(Clone, Debug)]
pub struct EvitPruner {
    profile: KeepProfile,
}

impl EvitPruner {
    /// Selects at the blocks of `profile`.
    pub fn new(profile: KeepProfile) -> Self {
        EvitPruner { profile }
    }
}

impl Pruner for EvitPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let site = |block: &usize| (Site::after_attention_of(*block), Taps::CLS_ATTENTION);
        self.profile.stages.iter().map(site).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let attention = tapped(view)?;
        let images: Vec<Vec<Vec<(usize, f32)>>> = (0..view.batch())
            .map(|b| {
                let mut ranked = rank(view.patch_rows(b), attention);
                let fused = ranked.split_off(self.profile.patch_tokens(stage, b).min(ranked.len()));
                ranked.sort_unstable();
                let mut rows: Vec<Vec<(usize, f32)>> = (view.offsets[b]..view.offsets[b] + view.prefix)
                    .chain(ranked)
                    .map(|row| vec![(row, 1.0)])
                    .collect();
                if !fused.is_empty() {
                    rows.push(fused.into_iter().map(|row| (row, attention[row])).collect());
                }
                rows
            })
            .collect();
        Ok(Reduction::merge(view.offsets, &images))
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        (tokens * self.profile.dim) as u64 // what is fused is scaled and added: at most all
    }
}

/// The attention that was asked for.
fn tapped<'s>(view: &View<'s>) -> Result<&'s [f32]> {
    let missing = || PruneError::KeepProfile("needs a view that carries the class token's attention".into());
    view.cls_attention.ok_or_else(missing)
}
