//! Token merging.

use rayon::prelude::*;
use vitrim_kernels::{InstructionSet, Linear};
use vitrim_vit::{Reduction, Site, Taps, View, VitSpec, cost};

use super::{Acts, HandMade};
use crate::pruner::{ImageKey, PruneError, Pruner, Result};

pub(super) const METHOD: HandMade = HandMade {
    name: "tome",
    about: "merges what is alike in every block, attention counting sizes",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::InEveryBlock {
        merging: |spec, r| Box::new(TomePruner::new(spec, r, true)),
        at_cost: |spec, macs| Box::new(TomePruner::at_cost(spec, macs, true)),
    },
};

pub(super) const PLAIN: HandMade = HandMade {
    name: "tome-plain",
    about: "merges what is alike in every block, attention counting each token once",
    acts: Acts::InEveryBlock {
        merging: |spec, r| Box::new(TomePruner::new(spec, r, false)),
        at_cost: |spec, macs| Box::new(TomePruner::at_cost(spec, macs, false)),
    },
    ..METHOD
};

/// ToMe (Bolya et al., ICLR 2023): between attention and MLP of every block, `r` tokens are merged into their most
/// similar partners by bipartite soft matching. Tokens are split alternately into two sets; each of the first
/// finds its nearest in the second by the cosine of their keys (mean over heads); the r best pairs merge into means
/// that are weighted by size. Prefix tokens do not merge, and at most half of an image's patch tokens leave in a
/// block.
#[derive(Clone, Debug)]
struct TomePruner {
    /// Tokens merged after each block's attention, `[L]`.
    merged: Vec<usize>,
    proportional: bool,
    head_dim: usize,
}

impl TomePruner {
    /// Merges `r` tokens in each block of `spec`. `proportional`: attention counts a merged key by its size.
    fn new(spec: &VitSpec, r: usize, proportional: bool) -> Self {
        TomePruner { merged: vec![r; spec.depth], proportional, head_dim: spec.head_dim() }
    }

    /// The schedule nearest to `macs` per image, scoring included: the same number in every block, and one more in
    /// the first few blocks.
    fn at_cost(spec: &VitSpec, macs: u64, proportional: bool) -> Self {
        let most = spec.depth * spec.num_patches() / 2;
        let schedules = (0..=most).map(|total| {
            let merged =
                (0..spec.depth).map(|block| total / spec.depth + usize::from(block < total % spec.depth));
            TomePruner { merged: merged.collect(), proportional, head_dim: spec.head_dim() }
        });
        let nearest = schedules.min_by_key(|pruner| pruner.image_macs(spec).abs_diff(macs));
        nearest.expect("merging nothing is a schedule")
    }

    /// MACs of an image; they are the same for all images.
    fn image_macs(&self, spec: &VitSpec) -> u64 {
        let (mut tokens, mut scoring) = (spec.num_tokens(), 0);
        let mut trajectory = Vec::with_capacity(self.merged.len());
        for (block, r) in self.merged.iter().enumerate() {
            scoring += self.macs(block, tokens);
            tokens -= most_merged(tokens, spec.num_prefix_tokens(), *r);
            trajectory.push((Site::after_attention_of(block), tokens));
        }
        cost::image_macs(spec, &trajectory) + scoring
    }
}

/// How many of `tokens` tokens can merge in one block if `r` are wanted.
fn most_merged(tokens: usize, prefix: usize, r: usize) -> usize {
    r.min((tokens - prefix) / 2)
}

impl Pruner for TomePruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let taps = Taps { cls_attention: false, keys: true, value_norm: false };
        (0..self.merged.len()).map(|block| (Site::after_attention_of(block), taps)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let keys =
            view.keys.ok_or_else(|| PruneError::KeepProfile("tome needs a view that carries keys".into()))?;
        let images: Vec<Vec<Vec<(usize, f32)>>> = (0..view.batch())
            .into_par_iter()
            .map(|b| {
                let rows = view.rows(b);
                let keys = &keys[rows.start * self.head_dim..rows.end * self.head_dim];
                let groups = matching(keys, self.head_dim, view.prefix, self.merged[stage]);
                groups.into_iter().map(|group| weighted(&group, rows.start, view.sizes)).collect()
            })
            .collect();
        let merge = Reduction::merge(view.offsets, &images);
        Ok(if self.proportional { merge.with_proportional_attention() } else { merge })
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        // The cosines of every token of one set with every token of the other, and the keys' norms.
        (tokens.div_ceil(2) * (tokens / 2) * self.head_dim + tokens * self.head_dim) as u64
    }
}

/// The rows of `group` (positions in an image that starts at `start`) with their shares of the group's size.
fn weighted(group: &[usize], start: usize, sizes: &[f32]) -> Vec<(usize, f32)> {
    let total: f32 = group.iter().map(|place| sizes[start + place]).sum();
    group.iter().map(|place| (start + place, sizes[start + place] / total)).collect()
}

/// The merges in an image with `keys: [n, d]` whose first `prefix` tokens do not merge: the positions of each output
/// token, the token that stays first; outputs are in the order of the tokens that stay.
fn matching(keys: &[f32], d: usize, prefix: usize, r: usize) -> Vec<Vec<usize>> {
    let n = keys.len() / d;
    let isa = InstructionSet::current();
    let mut normed = keys.to_vec();
    isa.normalise_rows(&mut normed, d);
    // Alternate positions, as in the paper: even positions look for a partner among the odd ones.
    let movable = |parity: usize| (prefix..n).filter(move |place| place % 2 == parity).collect::<Vec<_>>();
    let (movers, partners) = (movable(0), movable(1));
    let mut pairs: Vec<(f32, usize, usize)> = Vec::with_capacity(movers.len());
    if !partners.is_empty() {
        let rows = |places: &[usize]| -> Vec<f32> {
            places.iter().flat_map(|place| &normed[place * d..(place + 1) * d]).copied().collect()
        };
        let mut cosines = vec![0.0; movers.len() * partners.len()];
        Linear::new(&rows(&partners), None, partners.len(), d).forward(&rows(&movers), &mut cosines);
        let mut nearest = vec![(0.0, 0); movers.len()];
        isa.argmax_rows(&cosines, partners.len(), &mut nearest);
        pairs.extend(movers.iter().zip(nearest).map(|(a, (cosine, b))| (cosine, *a, partners[b])));
    }
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
    pairs.truncate(most_merged(n, prefix, r));
    let mut groups: Vec<Vec<usize>> = (0..n).map(|place| vec![place]).collect();
    for (_, from, to) in &pairs {
        groups[*to].push(*from);
        groups[*from].clear();
    }
    groups.retain(|group| !group.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_pairs_merge() {
        // A prefix token, then five patch tokens; tokens 2 and 4 look for partners among 1, 3 and 5.
        let keys = [[9.0, 9.0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -0.9], [-1.0, -1.0]].concat();
        assert_eq!(matching(&keys, 2, 1, 0).len(), 6);
        let one = matching(&keys, 2, 1, 1);
        assert_eq!(one, [vec![0], vec![1], vec![2], vec![3], vec![5, 4]], "the closest pair goes first");
        let two = matching(&keys, 2, 1, 2);
        assert_eq!(two, [vec![0], vec![1, 2], vec![3], vec![5, 4]]);
        assert_eq!(matching(&keys, 2, 1, 9), two, "only one set moves");
        assert_eq!(matching(&keys[..4], 2, 1, 1).len(), 2, "a single patch token has no partner");
    }

    #[test]
    fn several_tokens_may_join_one() {
        let keys = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]].concat();
        assert_eq!(matching(&keys, 2, 0, 2), [vec![1, 0, 2], vec![3]]);
        let shares = weighted(&[1, 0, 2], 0, &[1.0, 2.0, 1.0, 1.0]);
        assert_eq!(shares, [(1, 0.5), (0, 0.25), (2, 0.25)]);
    }
}
