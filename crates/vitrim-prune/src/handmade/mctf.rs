//! Merging by several criteria.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use super::cosines::{best_of_rows, gathered, normed, products};
use super::groups::{Group, rows_of_images, singles};
use super::schedule::{Schedule, leaving};
use super::{Acts, HandMade};
use crate::pruner::{ImageKey, PruneError, Pruner, Result};

pub(super) const METHOD: HandMade = HandMade {
    name: "mctf",
    about: "merges what is alike, small and not attended to, before every block but the first",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::InEveryBlock {
        schedule: Schedule::Constant,
        make: |spec, merged| Box::new(MctfPruner { merged, dim: spec.dim }),
    },
};

/// Power of the products of two tokens' terms of attention.
const ATTENTION: f32 = 1.0 / 20.0;
/// Power of the products of two tokens' terms of size.
const SIZE: f32 = 1.0 / 40.0;

/// MCTF (Lee et al., CVPR 2024) with the authors' settings, but without their training and without one-step-ahead
/// attention (`one_step_ahead` 0 in their code): before every block but the first, with the attention of the block
/// before. The score of two tokens is (cos + 1) / 2 of their embeddings, times (a_i a_j)^(1/20), times
/// (z_i z_j)^(1/40): a is the inverse of the mean attention that a token receives, z that of its size, each divided
/// by the image's largest. Tokens at even positions merge into their best partner at odd ones, r / 2 of them; then
/// those at odd positions into their best of those left at even ones, until r have merged. Means are weighted by
/// received attention times size, and attention counts a key by its size.
#[derive(Clone, Debug)]
struct MctfPruner {
    /// Tokens merged before each block, `[L]`; the first is not used.
    merged: Vec<usize>,
    dim: usize,
}

impl Pruner for MctfPruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        let taps = Taps { received_attention: true, ..Taps::NONE };
        (1..spec.depth).map(|block| (Site::input_of(block), taps)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let missing = || PruneError::KeepProfile("mctf needs a view that carries received attention".into());
        let attention = view.received_attention.ok_or_else(missing)?;
        let merge = rows_of_images(view, |b| {
            let (rows, start) = (view.rows(b), view.offsets[b]);
            let image = Image {
                tokens: &view.tokens[start * self.dim..rows.end * self.dim],
                attention: &attention[rows.clone()],
                sizes: &view.sizes[rows.clone()],
                dim: self.dim,
                prefix: view.prefix,
            };
            let groups = image.merged(leaving(rows.len(), view.prefix, self.merged[stage + 1]));
            groups.iter().map(|group| weighted(group, start, attention, view.sizes)).collect()
        });
        Ok(merge.with_proportional_attention())
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        // The cosines of every token of one set with every token of the other, each times the terms of both, and the
        // embeddings' norms.
        let pairs = tokens.div_ceil(2) * (tokens / 2);
        (pairs * (self.dim + 2) + tokens * self.dim) as u64
    }
}

/// The rows of `group` in an image that starts at row `start`, weighted by attention times size.
fn weighted(group: &[usize], start: usize, attention: &[f32], sizes: &[f32]) -> Vec<(usize, f32)> {
    if let [place] = group {
        return vec![(start + place, 1.0)];
    }
    let mass = |place: &usize| attention[start + place] * sizes[start + place];
    let total: f32 = group.iter().map(mass).sum();
    group.iter().map(|place| (start + place, mass(place) / total)).collect()
}

/// The tokens of an image.
struct Image<'a> {
    /// `[n, D]`.
    tokens: &'a [f32],
    /// Mean attention that each token receives, `[n]`.
    attention: &'a [f32],
    /// `[n]`.
    sizes: &'a [f32],
    dim: usize,
    prefix: usize,
}

impl Image<'_> {
    /// Each token's factor in the scores of its pairs, `[n]`.
    fn terms(&self) -> Vec<f32> {
        let inverse = |values: &[f32], power: f32| -> Vec<f32> {
            let inverse: Vec<f32> = values.iter().map(|value| 1.0 / value).collect();
            let largest = inverse.iter().copied().fold(0.0, f32::max);
            inverse.iter().map(|value| (value / largest).powf(power)).collect()
        };
        let (attention, size) = (inverse(self.attention, ATTENTION), inverse(self.sizes, SIZE));
        attention.iter().zip(&size).map(|(a, z)| a * z).collect()
    }

    /// The groups after `r` tokens have merged: first those of even positions, then those of odd ones, which the next
    /// block splits by their new positions.
    fn merged(&self, r: usize) -> Vec<Group> {
        let n = self.attention.len();
        if r == 0 {
            return singles(n);
        }
        let of_parity =
            |parity: usize| (self.prefix..n).filter(|place| place % 2 == parity).collect::<Vec<usize>>();
        let (even, odd) = (of_parity(0), of_parity(1));
        let (normed, terms) = (normed(self.tokens, self.dim), self.terms());
        let mut scores =
            products(&gathered(&normed, &even, self.dim), &gathered(&normed, &odd, self.dim), self.dim);
        for (row, a) in scores.chunks_exact_mut(odd.len()).zip(&even) {
            for (score, b) in row.iter_mut().zip(&odd) {
                *score = (*score + 1.0) / 2.0 * terms[*a] * terms[*b];
            }
        }
        let forth = ranked(&best_of_rows(&scores, odd.len()));
        let (merging, staying) = forth.split_at((r / 2).min(forth.len()));
        let mut groups = singles(n);
        for (a, b) in merging {
            let from = std::mem::take(&mut groups[even[*a]]);
            groups[odd[*b]].extend(from);
        }
        let mut staying: Vec<usize> = staying.iter().map(|(a, _)| *a).collect();
        if self.prefix > 0 {
            staying.sort_unstable();
        }
        // From each token at an odd position to those left at even ones.
        let back: Vec<f32> = (0..odd.len())
            .flat_map(|b| staying.iter().map(move |a| (a, b)))
            .map(|(a, b)| scores[a * odd.len() + b])
            .collect();
        let mut back =
            if staying.is_empty() { Vec::new() } else { ranked(&best_of_rows(&back, staying.len())) };
        let left = back.split_off((r - r / 2).min(back.len()));
        for (b, a) in back {
            let from = std::mem::take(&mut groups[odd[b]]);
            groups[even[staying[a]]].extend(from);
        }
        let prefix = (0..self.prefix).map(|place| vec![place]);
        let even = staying.iter().map(|a| std::mem::take(&mut groups[even[*a]])).collect::<Vec<Group>>();
        let odd = left.iter().map(|(b, _)| std::mem::take(&mut groups[odd[*b]])).collect::<Vec<Group>>();
        prefix.chain(even).chain(odd).collect()
    }
}

/// Each row with its best partner, the best pair first.
fn ranked(best: &[(f32, usize)]) -> Vec<(usize, usize)> {
    let mut rows: Vec<usize> = (0..best.len()).collect();
    rows.sort_by(|x, y| best[*y].0.total_cmp(&best[*x].0).then(x.cmp(y)));
    rows.into_iter().map(|row| (row, best[row].1)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, pair by pair, in f64: the sets of tokens that become one.
    fn slow(image: &Image<'_>, r: usize) -> Vec<Vec<usize>> {
        let n = image.attention.len();
        let row = |i: usize| &image.tokens[i * image.dim..(i + 1) * image.dim];
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let least = |values: &[f32]| f64::from(values.iter().copied().fold(f32::INFINITY, f32::min));
        let (least_attended, smallest) = (least(image.attention), least(image.sizes));
        let score = |i: usize, j: usize| {
            let cosine = dot(row(i), row(j)) / (dot(row(i), row(i)) * dot(row(j), row(j))).sqrt();
            let a = |i: usize| least_attended / f64::from(image.attention[i]);
            let z = |i: usize| smallest / f64::from(image.sizes[i]);
            (cosine + 1.0) / 2.0 * (a(i) * a(j)).powf(1.0 / 20.0) * (z(i) * z(j)).powf(1.0 / 40.0)
        };
        let mut group_of: Vec<usize> = (0..n).collect();
        let mut sets: [Vec<usize>; 2] =
            [0, 1].map(|parity| (image.prefix..n).filter(|i| i % 2 == parity).collect());
        for (from, count) in [(0, r / 2), (1, r - r / 2)] {
            let mut edges: Vec<(f64, usize, usize)> = Vec::new();
            for &i in &sets[from] {
                let mut best: Option<(f64, usize)> = None;
                for &j in &sets[1 - from] {
                    if best.is_none_or(|(most, _)| score(i, j) > most) {
                        best = Some((score(i, j), j));
                    }
                }
                edges.extend(best.map(|(score, j)| (score, i, j)));
            }
            edges.sort_by(|x, y| y.0.total_cmp(&x.0));
            for (_, i, j) in edges.into_iter().take(count) {
                let moved = group_of.clone();
                (0..n).filter(|k| moved[*k] == i).for_each(|k| group_of[k] = j);
                sets[from].retain(|k| *k != i);
            }
        }
        let members = |to: usize| (0..n).filter(|k| group_of[*k] == to).collect::<Vec<usize>>();
        let mut groups: Vec<Vec<usize>> = (0..n).map(members).filter(|group| !group.is_empty()).collect();
        groups.sort();
        groups
    }

    proptest! {
        #[test]
        fn matching_is_the_definition(
            (d, tokens) in (2usize..9).prop_flat_map(|d| {
                (Just(d), prop::collection::vec(-1.0f32..1.0, d * 4..d * 40))
            }),
            terms in prop::collection::vec((0.01f32..1.0, 1u8..5), 40),
            prefix in 0usize..4,
            wanted in 0usize..20,
        ) {
            let n = tokens.len() / d;
            let tokens = &tokens[..n * d];
            prop_assume!(tokens.chunks(d).all(|row| row.iter().map(|v| v * v).sum::<f32>() > 1e-2));
            let attention: Vec<f32> = terms.iter().take(n).map(|(attention, _)| *attention).collect();
            let sizes: Vec<f32> = terms.iter().take(n).map(|(_, size)| f32::from(*size)).collect();
            let image = Image { tokens, attention: &attention, sizes: &sizes, dim: d, prefix };
            let r = leaving(n, prefix, wanted);
            let mut groups = image.merged(r);
            prop_assert_eq!(groups.len(), n - r, "r tokens leave");
            prop_assert!((0..prefix).all(|place| groups[place] == [place]), "prefix tokens stay");
            groups.iter_mut().for_each(|group| group.sort_unstable());
            groups.sort();
            prop_assert_eq!(groups, slow(&image, r));
        }
    }

    #[test]
    fn means_are_weighted_by_attention_and_size() {
        let (attention, sizes) = ([9.0, 0.5, 0.25, 1.0], [1.0, 1.0, 6.0, 1.0]);
        assert_eq!(weighted(&[0, 1], 1, &attention, &sizes), [(1, 0.25), (2, 0.75)]);
        assert_eq!(weighted(&[2], 1, &attention, &sizes), [(3, 1.0)]);
    }
}
