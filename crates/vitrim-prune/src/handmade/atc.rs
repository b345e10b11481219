//! Merging by agglomerative clustering.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::clustering::{Linkage, clusters};
use super::cosines::{normed, products};
use super::groups::{Group, keys, merged_by_size, singles};
use super::schedule::{Schedule, leaving};
use super::tome::sites_for_keys;
use super::{Acts, HandMade};
use crate::pruner::{ImageKey, Pruner, Result};

pub(super) const AVERAGE: HandMade = HandMade {
    name: "atc",
    about: "clusters what is alike in every block, by the mean distance between clusters",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::InEveryBlock {
        schedule: Schedule::Decreasing,
        make: |spec, merged| Box::new(AtcPruner::new(spec, merged, Linkage::Average)),
    },
};

pub(super) const SINGLE: HandMade = HandMade {
    name: "atc-single",
    about: "clusters what is alike in every block, by the smallest distance between clusters",
    acts: Acts::InEveryBlock {
        schedule: Schedule::Decreasing,
        make: |spec, merged| Box::new(AtcPruner::new(spec, merged, Linkage::Single)),
    },
    ..AVERAGE
};

pub(super) const COMPLETE: HandMade = HandMade {
    name: "atc-complete",
    about: "clusters what is alike in every block, by the largest distance between clusters",
    acts: Acts::InEveryBlock {
        schedule: Schedule::Decreasing,
        make: |spec, merged| Box::new(AtcPruner::new(spec, merged, Linkage::Complete)),
    },
    ..AVERAGE
};

/// ATC (Haurum et al., ECCV 2024), as its authors run it off the shelf: between attention and MLP of every block, the patch
/// tokens are clustered by 1 - cosine of their keys until r fewer are left, r falling linearly over the blocks. A
/// cluster becomes the mean of its tokens, weighted by size, and attention counts a key by its size. Prefix tokens do
/// not merge, and at most half of an image's patch tokens leave in a block.
#[derive(Clone, Debug)]
struct AtcPruner {
    /// Tokens merged after each block's attention, `[L]`.
    merged: Vec<usize>,
    linkage: Linkage,
    head_dim: usize,
}

impl AtcPruner {
    fn new(spec: &VitSpec, merged: Vec<usize>, linkage: Linkage) -> Self {
        AtcPruner { merged, linkage, head_dim: spec.head_dim() }
    }
}

impl Pruner for AtcPruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        sites_for_keys(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let keys = keys(view, "atc")?;
        let merge = merged_by_size(view, |b| {
            let r = leaving(view.rows(b).len(), view.prefix, self.merged[stage]);
            grouped(keys(b), self.head_dim, view.prefix, r, self.linkage)
        });
        Ok(merge.with_proportional_attention())
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        // The cosines of every token with every token, the keys' norms, and the distances to each join: two products
        // for every cluster that is left, about n^2 / 2 of them.
        ((tokens * tokens + tokens) * self.head_dim + tokens * tokens) as u64
    }
}

/// The clusters of an image with `keys: [n, d]` whose first `prefix` tokens stay alone, after `r` tokens have joined others.
fn grouped(keys: &[f32], d: usize, prefix: usize, r: usize, linkage: Linkage) -> Vec<Group> {
    let n = keys.len() / d;
    if r == 0 {
        return singles(n);
    }
    let normed = normed(&keys[prefix * d..], d);
    let mut distances = products(&normed, &normed, d);
    distances.iter_mut().for_each(|cosine| *cosine = 1.0 - *cosine);
    let clusters = clusters(&distances, linkage, n - prefix - r);
    let moved = clusters.into_iter().map(|cluster| cluster.into_iter().map(|place| prefix + place).collect());
    singles(prefix).into_iter().chain(moved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_hold_what_is_alike() {
        // A prefix token, then two bundles of directions.
        let keys = [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0], [1.0, -0.1]].concat();
        for linkage in [Linkage::Single, Linkage::Average, Linkage::Complete] {
            assert_eq!(grouped(&keys, 2, 1, 3, linkage), [vec![0], vec![1, 3, 5], vec![2, 4]], "{linkage:?}");
            assert_eq!(grouped(&keys, 2, 1, 0, linkage), singles(6));
        }
    }
}
