//! Token merging.

use std::borrow::Cow;

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::cosines::{best_of_rows, gathered, normed, products};
use super::groups::{Group, joined, keys, merged_by_size, singles};
use super::schedule::{Schedule, leaving};
use super::{Acts, HandMade};
use crate::pruner::{ImageKey, Pruner, Result};

pub(super) const METHOD: HandMade = HandMade {
    name: "tome",
    about: "merges what is alike in every block, attention counting sizes",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::InEveryBlock {
        schedule: Schedule::Constant,
        make: |spec, merged| Box::new(TomePruner { merged, proportional: true, head_dim: spec.head_dim() }),
    },
};

pub(super) const PLAIN: HandMade = HandMade {
    name: "tome-plain",
    about: "merges what is alike in every block, attention counting each token once",
    acts: Acts::InEveryBlock {
        schedule: Schedule::Constant,
        make: |spec, merged| Box::new(TomePruner { merged, proportional: false, head_dim: spec.head_dim() }),
    },
    ..METHOD
};

/// ToMe (Bolya et al., ICLR 2023): between attention and MLP of every block, tokens are merged into their most similar
/// partners by bipartite soft matching ([`pairs`]); means are weighted by size. Prefix tokens do not merge, and at most
/// half of an image's patch tokens leave in a block.
#[derive(Clone, Debug)]
struct TomePruner {
    /// Tokens merged after each block's attention, `[L]`.
    merged: Vec<usize>,
    /// Whether attention counts a merged key by its size.
    proportional: bool,
    head_dim: usize,
}

impl Pruner for TomePruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        sites_for_keys(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let keys = keys(view, "tome")?;
        let merge = merge_alike(view, self.merged[stage], self.head_dim, |b| Cow::Borrowed(keys(b)));
        Ok(if self.proportional { merge.with_proportional_attention() } else { merge })
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        matching_macs(tokens, self.head_dim)
    }
}

/// The sites between attention and MLP of every block, with the keys.
pub(super) fn sites_for_keys(spec: &VitSpec) -> Vec<(Site, Taps)> {
    sites_in_every_block(spec, Taps { keys: true, ..Taps::NONE })
}

/// The sites between attention and MLP of every block, with `taps`.
pub(crate) fn sites_in_every_block(spec: &VitSpec, taps: Taps) -> Vec<(Site, Taps)> {
    (0..spec.depth).map(|block| (Site::after_attention_of(block), taps)).collect()
}

/// Merges up to `r` patch tokens of each image `b` into those that `metric(b): [n, width]` finds the most similar, by
/// bipartite soft matching; means are weighted by size.
pub(crate) fn merge_alike<'m>(
    view: &View<'_>,
    r: usize,
    width: usize,
    metric: impl Fn(usize) -> Cow<'m, [f32]> + Send + Sync,
) -> Reduction {
    merged_by_size(view, |b| {
        let (n, prefix) = (view.rows(b).len(), view.prefix);
        matched(n, prefix, &pairs(&metric(b), width, prefix), leaving(n, prefix, r))
    })
}

/// MACs of [`pairs`] for an image of `tokens` tokens: the cosines of every token of one set with every token of the other,
/// and the keys' norms.
pub(crate) fn matching_macs(tokens: usize, head_dim: usize) -> u64 {
    (tokens.div_ceil(2) * (tokens / 2) * head_dim + tokens * head_dim) as u64
}

/// A token that may merge, with its nearest partner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    /// Cosine of the two.
    pub cosine: f32,
    /// Position of the token that merges.
    pub from: usize,
    /// Position of its partner, which stays.
    pub to: usize,
}

/// Bipartite soft matching in an image with `keys: [n, d]` (mean over heads) whose first `prefix` tokens do not merge:
/// tokens at even positions look for the nearest, by cosine, of those at odd positions. The best pair first.
pub(super) fn pairs(keys: &[f32], d: usize, prefix: usize) -> Vec<Pair> {
    let n = keys.len() / d;
    let movable = |parity: usize| (prefix..n).filter(move |place| place % 2 == parity).collect::<Vec<_>>();
    let (movers, partners) = (movable(0), movable(1));
    if partners.is_empty() {
        return Vec::new();
    }
    let normed = normed(keys, d);
    let cosines = products(&gathered(&normed, &movers, d), &gathered(&normed, &partners, d), d);
    let nearest = best_of_rows(&cosines, partners.len());
    let mut pairs: Vec<Pair> = movers
        .iter()
        .zip(nearest)
        .map(|(from, (cosine, b))| Pair { cosine, from: *from, to: partners[b] })
        .collect();
    pairs.sort_by(|x, y| y.cosine.total_cmp(&x.cosine).then(x.from.cmp(&y.from)));
    pairs
}

/// The groups after the first `r` of `pairs` have merged in an image of `n` tokens. As in the authors' code, the tokens
/// that could have merged come before their partners, so that the next block splits them by other positions.
pub(super) fn matched(n: usize, prefix: usize, pairs: &[Pair], r: usize) -> Vec<Group> {
    if r == 0 {
        return singles(n);
    }
    let (merging, staying) = pairs.split_at(r.min(pairs.len()));
    let mut staying: Vec<usize> = staying.iter().map(|pair| pair.from).collect();
    // The authors' code sorts them only if there is a class token.
    if prefix > 0 {
        staying.sort_unstable();
    }
    let alone = (0..prefix).chain(staying).map(|place| vec![place]);
    let joined = joined(n, merging.iter().map(|pair| (pair.from, pair.to)));
    let partners = joined.into_iter().filter(|group| group[0] >= prefix && group[0] % 2 == 1);
    alone.chain(partners).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn merges(keys: &[f32], d: usize, prefix: usize, r: usize) -> Vec<Group> {
        let n = keys.len() / d;
        matched(n, prefix, &pairs(keys, d, prefix), leaving(n, prefix, r))
    }

    #[test]
    fn the_most_similar_pairs_merge() {
        // A prefix token, then five patch tokens; tokens 2 and 4 look for partners among 1, 3 and 5.
        let keys = [[9.0, 9.0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -0.9], [-1.0, -1.0]].concat();
        assert_eq!(merges(&keys, 2, 1, 0), singles(6), "nothing merges, nothing moves");
        let one = merges(&keys, 2, 1, 1);
        assert_eq!(one, [vec![0], vec![2], vec![1], vec![3], vec![5, 4]], "the closest pair goes first");
        let two = merges(&keys, 2, 1, 2);
        assert_eq!(two, [vec![0], vec![1, 2], vec![3], vec![5, 4]]);
        assert_eq!(merges(&keys, 2, 1, 9), two, "only one set moves");
        assert_eq!(merges(&keys[..4], 2, 1, 1).len(), 2, "a single patch token has no partner");
    }

    #[test]
    fn several_tokens_may_join_one() {
        let keys = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]].concat();
        assert_eq!(merges(&keys, 2, 0, 2), [vec![1, 0, 2], vec![3]]);
    }

    /// The published matching, step by step: scores with minus infinity for prefix tokens, an argsort, and the
    /// concatenation of what is left of the first set and the second set.
    fn slow(keys: &[f32], d: usize, prefix: usize, r: usize) -> Vec<Group> {
        let n = keys.len() / d;
        let r = r.min((n - prefix) / 2);
        if r == 0 {
            return (0..n).map(|place| vec![place]).collect();
        }
        let row = |i: usize| &keys[i * d..(i + 1) * d];
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let cosine = |i, j| dot(row(i), row(j)) / (dot(row(i), row(i)) * dot(row(j), row(j))).sqrt();
        let (a, b): (Vec<usize>, Vec<usize>) = (0..n).partition(|place| place % 2 == 0);
        let mut edges: Vec<(f64, usize, usize)> = a
            .iter()
            .map(|&i| {
                let score =
                    |j: usize| if i < prefix || j < prefix { f64::NEG_INFINITY } else { cosine(i, j) };
                let best = b.iter().copied().max_by(|x, y| score(*x).total_cmp(&score(*y)).then(y.cmp(x)));
                (score(best.unwrap()), i, best.unwrap())
            })
            .collect();
        edges.sort_by(|x, y| y.0.total_cmp(&x.0));
        let mut unmerged: Vec<usize> =
            edges[r..].iter().map(|edge| edge.1).filter(|i| *i >= prefix).collect();
        if prefix > 0 {
            unmerged.sort_unstable();
        }
        let group = |j: usize| {
            let mut sources: Vec<usize> =
                edges[..r].iter().filter(|edge| edge.2 == j).map(|edge| edge.1).collect();
            sources.insert(0, j);
            sources
        };
        (0..prefix)
            .chain(unmerged)
            .map(|place| vec![place])
            .chain(b.into_iter().filter(|j| *j >= prefix).map(group))
            .collect()
    }

    proptest! {
        #[test]
        fn matching_is_the_published_one(
            (d, keys) in (1usize..9).prop_flat_map(|d| {
                (Just(d), prop::collection::vec(-1.0f32..1.0, d * 5..d * 40))
            }),
            prefix in 0usize..4,
            r in 0usize..20,
        ) {
            let keys = &keys[..keys.len() / d * d];
            prop_assume!(keys.chunks(d).all(|row| row.iter().map(|v| v * v).sum::<f32>() > 1e-3));
            // In one dimension, all cosines are 1 or -1, and any order of them is right.
            prop_assume!(d > 1);
            prop_assert_eq!(merges(keys, d, prefix, r), slow(keys, d, prefix, r));
        }
    }
}
