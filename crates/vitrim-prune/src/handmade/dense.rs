//! The dense model, as a pruner.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use crate::pruner::{ImageKey, Pruner, Result};

/// Prunes nothing: the dense model.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPruner;

impl Pruner for NoPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        Vec::new()
    }

    fn decide(&self, _: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        Ok(Reduction::keep(view.offsets, &vec![true; view.total()]))
    }

    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
}
