//! Token fusion: dropping in the first half of the network, merging with kept norms in the second.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::groups::{Group, keys, rows_of_images};
use super::schedule::{Schedule, leaving};
use super::tome::{matched, matching_macs, pairs, sites_for_keys};
use super::{Acts, HandMade};
use crate::pruner::{ImageKey, Pruner, Result};

pub(super) const METHOD: HandMade = HandMade {
    name: "tofu",
    about: "drops what is alike in the first half of the blocks, and merges it with its norm kept in the second",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::InEveryBlock {
        schedule: Schedule::Share,
        make: |spec, removed| Box::new(TofuPruner { removed, head_dim: spec.head_dim(), dim: spec.dim }),
    },
};

/// ToFu (Kim et al., WACV 2024), as in the code of PiToMe's authors: ToMe's matching in every block. Up to block L/2 the
/// tokens that would merge are dropped. From then on they merge: the mean of the group, times the largest norm in the
/// group, divided by the norm of the token that stays. Attention and means count each token once.
#[derive(Clone, Debug)]
struct TofuPruner {
    /// Tokens that leave after each block's attention, `[L]`.
    removed: Vec<usize>,
    head_dim: usize,
    dim: usize,
}

impl TofuPruner {
    fn merges(&self, block: usize) -> bool {
        block > self.removed.len() / 2
    }
}

impl Pruner for TofuPruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        sites_for_keys(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let keys = keys(view, "tofu")?;
        let merges = self.merges(stage);
        Ok(rows_of_images(view, |b| {
            let n = view.rows(b).len();
            let r = leaving(n, view.prefix, self.removed[stage]);
            let groups = matched(n, view.prefix, &pairs(keys(b), self.head_dim, view.prefix), r);
            let start = view.offsets[b];
            let row = |group: &Group| match group[..] {
                [place] => vec![(start + place, 1.0)],
                _ if merges => with_norm_kept(group, start, |row| norm(view.token(row))),
                _ => vec![(start + group[0], 1.0)],
            };
            groups.iter().map(row).collect()
        }))
    }

    fn macs(&self, stage: usize, tokens: usize) -> u64 {
        let norms = if self.merges(stage) { tokens * self.dim } else { 0 };
        matching_macs(tokens, self.head_dim) + norms as u64
    }
}

/// The rows of `group` in an image that starts at row `start`, with the weights of the mean that is scaled by the largest
/// norm over the first row's.
fn with_norm_kept(group: &[usize], start: usize, norm: impl Fn(usize) -> f32) -> Vec<(usize, f32)> {
    let largest = group.iter().map(|place| norm(start + place)).fold(0.0, f32::max);
    let scale = largest / norm(start + group[0]).max(f32::MIN_POSITIVE) / group.len() as f32;
    group.iter().map(|place| (start + place, scale)).collect()
}

fn norm(token: &[f32]) -> f32 {
    token.iter().map(|v| v * v).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade::random_states;

    #[test]
    fn the_largest_norm_is_kept() {
        // Two tokens in one direction, of norms 2 and 6: their mean of 4, times 6 / 2.
        let norms = [0.0, 2.0, 6.0];
        assert_eq!(with_norm_kept(&[0, 1], 1, |row| norms[row]), [(1, 1.5), (2, 1.5)]);
        assert_eq!(with_norm_kept(&[1, 0], 1, |row| norms[row]), [(2, 0.5), (1, 0.5)]);
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
    }

    #[test]
    fn decisions_are_the_definition() {
        for seed in 0..30 {
            let spec = random_states::spec(seed % 2 == 0);
            let state = random_states::state(&spec, seed);
            let view = state.view(&spec);
            for (stage, r) in [(2, 3), (3, 2), (3, 9), (0, 0)] {
                let pruner = TofuPruner { removed: vec![r; 4], head_dim: spec.head_dim(), dim: spec.dim };
                let reduction = pruner.decide(stage, &view, &[0, 1, 2]).unwrap();
                let expected: Vec<_> = (0..3)
                    .map(|b| {
                        let mut pairs = random_states::matching(&state, &spec, b);
                        pairs.truncate(r.min(view.patch_rows(b).len() / 2));
                        let stays = |row: &usize| pairs.iter().all(|pair| pair.1 != *row);
                        let of_row = |row: usize| {
                            let sources = pairs.iter().filter(|pair| pair.2 == row).map(|pair| pair.1);
                            // Only behind block 2 of 4 do tokens merge.
                            let group: Vec<usize> =
                                std::iter::once(row).chain(sources.filter(|_| stage > 2)).collect();
                            let largest = group.iter().map(|row| norm(view.token(*row))).fold(0.0, f32::max);
                            let mean = |i: usize| {
                                group.iter().map(|row| view.token(*row)[i]).sum::<f32>() / group.len() as f32
                            };
                            let scale = if group.len() > 1 { largest / norm(view.token(row)) } else { 1.0 };
                            let token = (0..spec.dim).map(|i| mean(i) * scale).collect();
                            (row, token, group.iter().map(|row| view.sizes[*row]).sum())
                        };
                        view.rows(b).filter(stays).map(of_row).collect()
                    })
                    .collect();
                random_states::check(&state, &spec, &reduction, &expected);
            }
        }
    }
}
