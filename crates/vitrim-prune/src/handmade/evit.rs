//! Selection by the class token's attention; the other tokens are fused into one.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::cls_attention::class_attention;
use super::{Acts, HandMade, KeepProfile};
use crate::pruner::{ImageKey, Pruner, Result};
use crate::ranking::rank;

pub(super) const METHOD: HandMade = HandMade {
    name: "evit",
    about: "keeps what the class token attends to, and fuses the rest into one token",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::AtStages(|profile| Box::new(EvitPruner { profile })),
};

/// EViT (Liang et al., ICLR 2022): between attention and MLP of each stage's block, the patch tokens to which the
/// class token attends most stay. The other patch tokens become one token: their sum weighted by that attention. The
/// fused token takes part in the following blocks and selections. `patch_tokens` does not count it.
#[derive(Clone, Debug)]
struct EvitPruner {
    profile: KeepProfile,
}

impl Pruner for EvitPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let site = |block: &usize| (Site::after_attention_of(*block), Taps::CLS_ATTENTION);
        self.profile.stages.iter().map(site).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let attention = class_attention(view)?;
        let images: Vec<Vec<Vec<(usize, f32)>>> = (0..view.batch())
            .map(|b| {
                let mut ranked = rank(view.patch_rows(b), attention);
                let fused = ranked
                    .split_off(self.profile.patch_tokens(stage, b, view.num_patches(b)).min(ranked.len()));
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
