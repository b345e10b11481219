//! Token merging that protects isolated tokens.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::cosines::{best_of_rows, normed, products};
use super::groups::{Group, joined, keys, merged_by_size, singles};
use super::schedule::{Schedule, leaving};
use super::tome::sites_for_keys;
use super::{Acts, HandMade};
use crate::pruner::{ImageKey, Pruner, Result};

pub(super) const METHOD: HandMade = HandMade {
    name: "pitome",
    about: "merges what is alike in every block and spares isolated tokens, attention counting sizes",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::InEveryBlock {
        schedule: Schedule::Share,
        make: |spec, merged| Box::new(PitomePruner::new(spec, merged, true)),
    },
};

pub(super) const PLAIN: HandMade = HandMade {
    name: "pitome-plain",
    about: "merges what is alike in every block and spares isolated tokens, attention counting each token once",
    acts: Acts::InEveryBlock {
        schedule: Schedule::Share,
        make: |spec, merged| Box::new(PitomePruner::new(spec, merged, false)),
    },
    ..METHOD
};

/// The margin of block 0 for a ViT; it falls linearly to 0 behind the last block.
const MARGIN: f32 = 0.75;

/// PiToMe (Tran et al., NeurIPS 2024): between attention and MLP of every block, the *energy* of a patch token is its mean
/// ELU(c - m) over all patch tokens, c the cosine of the keys and m the block's margin: high among many alike. In the
/// first half of the blocks, tokens are split alternately by the rank of their energy, and the r best pairs merge as
/// in ToMe. In the second half, only the 2 r tokens of the highest energy take part, and each of even rank joins its
/// nearest of odd rank. Means are weighted by size. The paper's attention counts a key by its size, the authors' code
/// for DeiT does not (`pitome-plain`).
#[derive(Clone, Debug)]
struct PitomePruner {
    /// Tokens merged after each block's attention, `[L]`.
    merged: Vec<usize>,
    proportional: bool,
    head_dim: usize,
}

impl PitomePruner {
    fn new(spec: &VitSpec, merged: Vec<usize>, proportional: bool) -> Self {
        PitomePruner { merged, proportional, head_dim: spec.head_dim() }
    }
}

impl Pruner for PitomePruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        sites_for_keys(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let keys = keys(view, "pitome")?;
        let depth = self.merged.len();
        let margin = MARGIN - MARGIN * stage as f32 / depth as f32;
        let choice = if stage < depth.div_ceil(2) { Choice::BestPairs } else { Choice::HighestEnergy };
        let merge = merged_by_size(view, |b| {
            let r = leaving(view.rows(b).len(), view.prefix, self.merged[stage]);
            matching(keys(b), self.head_dim, view.prefix, r, margin, choice)
        });
        Ok(if self.proportional { merge.with_proportional_attention() } else { merge })
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        // The cosines of every token with every token, and the keys' norms.
        ((tokens * tokens + tokens) * self.head_dim) as u64
    }
}

/// Which tokens merge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    /// The r best pairs.
    BestPairs,
    /// r of the 2 r tokens with the highest energy.
    HighestEnergy,
}

/// The merges in an image with `keys: [n, d]` whose first `prefix` tokens do not merge; `r` is at most half of the others.
fn matching(keys: &[f32], d: usize, prefix: usize, r: usize, margin: f32, choice: Choice) -> Vec<Group> {
    let n = keys.len() / d;
    if r == 0 {
        return singles(n);
    }
    let normed = normed(&keys[prefix * d..], d);
    let patches = n - prefix;
    let cosines = products(&normed, &normed, d);
    let elu = |x: f32| if x > 0.0 { x } else { x.exp_m1() };
    let energy: Vec<f32> = cosines
        .chunks_exact(patches)
        .map(|row| row.iter().map(|cosine| elu(cosine - margin)).sum())
        .collect();
    let mut ranked: Vec<usize> = (0..patches).collect();
    ranked.sort_by(|x, y| energy[*y].total_cmp(&energy[*x]).then(x.cmp(y)));
    if choice == Choice::HighestEnergy {
        ranked.truncate(2 * r);
    }
    let of_parity = |parity: usize| ranked.iter().skip(parity).step_by(2).copied().collect::<Vec<usize>>();
    let (movers, partners) = (of_parity(0), of_parity(1));
    let between: Vec<f32> = movers
        .iter()
        .flat_map(|a| partners.iter().map(move |b| (a, b)))
        .map(|(a, b)| cosines[a * patches + b])
        .collect();
    let mut pairs: Vec<(f32, usize, usize)> = movers
        .iter()
        .zip(best_of_rows(&between, partners.len()))
        .map(|(a, (cosine, b))| (cosine, *a, partners[b]))
        .collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
    pairs.truncate(r);
    joined(n, pairs.into_iter().map(|(_, from, to)| (prefix + from, prefix + to)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn isolated_tokens_are_spared() {
        // Four tokens that are nearly alike, and two that stand alone (though they are near to each other's opposite).
        let keys = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.02], [1.0, 0.01], [0.3, -1.0], [1.0, 0.03]].concat();
        let groups = matching(&keys, 2, 0, 2, 0.5, Choice::HighestEnergy);
        assert_eq!(groups.len(), 4);
        assert!(groups.contains(&vec![1]) && groups.contains(&vec![4]), "{groups:?}");
    }

    fn cosine(keys: &[f32], d: usize, i: usize, j: usize) -> f64 {
        let row = |i: usize| &keys[i * d..(i + 1) * d];
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(row(i), row(j)) / (dot(row(i), row(i)) * dot(row(j), row(j))).sqrt()
    }

    /// The energy of each patch token.
    fn energies(keys: &[f32], d: usize, prefix: usize, margin: f32) -> Vec<f64> {
        let n = keys.len() / d;
        let elu = |x: f64| if x > 0.0 { x } else { x.exp() - 1.0 };
        let term = |i: usize, j: usize| elu(cosine(keys, d, i, j) - f64::from(margin));
        (prefix..n).map(|i| (prefix..n).map(|j| term(i, j)).sum::<f64>() / (n - prefix) as f64).collect()
    }

    /// The definition, token by token.
    fn slow(keys: &[f32], d: usize, prefix: usize, r: usize, margin: f32, choice: Choice) -> Vec<Vec<usize>> {
        let n = keys.len() / d;
        let energies = energies(keys, d, prefix, margin);
        let mut order: Vec<usize> = (prefix..n).collect();
        order.sort_by(|x, y| energies[y - prefix].total_cmp(&energies[x - prefix]));
        if choice == Choice::HighestEnergy {
            order.truncate(2 * r);
        }
        let mut edges = Vec::new();
        for a in (0..order.len()).step_by(2) {
            let mut best: Option<(f64, usize)> = None;
            for b in (1..order.len()).step_by(2) {
                let score = cosine(keys, d, order[a], order[b]);
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, order[b]));
                }
            }
            edges.extend(best.map(|(score, to)| (score, order[a], to)));
        }
        edges.sort_by(|x, y| y.0.total_cmp(&x.0));
        let mut groups: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
        for (_, from, to) in edges.into_iter().take(r) {
            groups[to].push(from);
            groups[from].clear();
        }
        groups.retain(|group| !group.is_empty());
        groups
    }

    proptest! {
        #[test]
        fn matching_is_the_definition(
            (d, keys) in (2usize..9).prop_flat_map(|d| {
                (Just(d), prop::collection::vec(-1.0f32..1.0, d * 5..d * 40))
            }),
            prefix in 0usize..4,
            wanted in 0usize..20,
            margin in 0.0f32..0.9,
            best_pairs: bool,
        ) {
            let keys = &keys[..keys.len() / d * d];
            prop_assume!(keys.chunks(d).all(|row| row.iter().map(|v| v * v).sum::<f32>() > 1e-3));
            let r = leaving(keys.len() / d, prefix, wanted);
            // Ranks are those of the definition unless two energies are equal to rounding.
            let mut energies = energies(keys, d, prefix, margin);
            energies.sort_by(f64::total_cmp);
            prop_assume!(energies.windows(2).all(|pair| pair[1] - pair[0] > 1e-5));
            let choice = if best_pairs { Choice::BestPairs } else { Choice::HighestEnergy };
            let groups = matching(keys, d, prefix, r, margin, choice);
            prop_assert_eq!(groups.len(), keys.len() / d - r, "r tokens leave");
            prop_assert_eq!(groups, slow(keys, d, prefix, r, margin, choice));
        }
    }
}
