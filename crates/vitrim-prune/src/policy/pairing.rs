//! Partners: which token a leaving token merges into.
//!
//! With `Departure::Merge`, a token that leaves becomes part of the token most similar to it. Two tokens that are
//! similar to each other cannot both leave into the other. Roles are therefore assigned before agents act: from the
//! most similar pair to the least, one token may leave and the other has to stay.

use std::ops::Range;

use vitrim_kernels::InstructionSet;
use vitrim_vit::View;

use crate::policy::cosines::Cosines;

/// The roles of one stage. Prefix tokens stay, and no token merges into them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairing {
    /// The row that each row would merge into, `[T]`; its own index if it has to stay.
    pub partner: Vec<usize>,
    /// Cosine of the keys of each row and its partner, `[T]`; 0 if the row has to stay.
    pub similarity: Vec<f32>,
    /// Cosine of the tokens themselves, each minus its mean over D, `[T]`; 0 if the row has to stay, empty if not
    /// asked for.
    pub token_similarity: Vec<f32>,
    /// Mean dissimilarity 1 - cosine of the keys of each patch token and the image's other ones, `[T]`; empty if not asked
    /// for.
    pub seclusion: Vec<f32>,
}

impl Pairing {
    /// `total` rows, all of which have to stay. `tokens`: whether the tokens themselves are compared, too; `all`: whether
    /// each token is compared with all others.
    pub(super) fn of_none(total: usize, tokens: bool, all: bool) -> Self {
        Pairing {
            partner: (0..total).collect(),
            similarity: vec![0.0; total],
            token_similarity: vec![0.0; if tokens { total } else { 0 }],
            seclusion: vec![0.0; if all { total } else { 0 }],
        }
    }

    /// The roles of each image of `view`, still to be assigned.
    pub(super) fn images<'p>(&'p mut self, view: &View<'_>) -> Vec<Roles<'p>> {
        let tokens = usize::from(!self.token_similarity.is_empty());
        let partners = per_image(view.offsets, 1, &mut self.partner);
        let similarities = per_image(view.offsets, 1, &mut self.similarity);
        let token_similarities = per_image(view.offsets, tokens, &mut self.token_similarity);
        let secluded = usize::from(!self.seclusion.is_empty());
        let seclusions = per_image(view.offsets, secluded, &mut self.seclusion);
        let images = partners.zip(similarities).zip(token_similarities).zip(seclusions).enumerate();
        let roles = images.map(|(b, (((partner, similarity), token_similarity), seclusion))| Roles {
            rows: view.rows(b),
            prefix: view.prefix,
            partner,
            similarity,
            token_similarity,
            seclusion,
        });
        roles.collect()
    }

    /// Whether row `t` may leave.
    pub fn may_leave(&self, t: usize) -> bool {
        self.partner[t] != t
    }
}

/// Splits `values: [T, width]` into the rows of each image; images start at `offsets: [B + 1]`.
pub(super) fn per_image<'v, T>(
    offsets: &[usize],
    width: usize,
    values: &'v mut [T],
) -> impl Iterator<Item = &'v mut [T]> {
    let mut rest = values;
    offsets.windows(2).map(move |image| {
        let (own, others) = std::mem::take(&mut rest).split_at_mut((image[1] - image[0]) * width);
        rest = others;
        own
    })
}

/// The roles of one image's `rows`, in the layout of [`Pairing`].
pub(super) struct Roles<'p> {
    rows: Range<usize>,
    prefix: usize,
    pub partner: &'p mut [usize],
    pub similarity: &'p mut [f32],
    pub token_similarity: &'p mut [f32],
    pub seclusion: &'p mut [f32],
}

impl Roles<'_> {
    /// Assigns the roles by the cosine of `keys: [T, head_dim]`, the mean over heads of all rows of `view` (as in
    /// ToMe).
    pub fn deal(&mut self, view: &View<'_>, keys: &[f32], cosines: &mut Cosines) {
        let (first, width) = (self.rows.start + self.prefix, keys.len() / view.total().max(1));
        let patches = first..self.rows.end;
        cosines.compute(&keys[patches.start * width..patches.end * width], width);
        if !self.seclusion.is_empty() {
            seclusion(cosines.unit(), width, &mut self.seclusion[self.prefix..]);
        }
        let isa = InstructionSet::current();
        for (i, (to, cosine)) in deal(cosines).into_iter().enumerate().filter_map(|(i, l)| Some((i, l?))) {
            let own = self.prefix + i;
            (self.partner[own], self.similarity[own]) = (first + to, cosine);
            if !self.token_similarity.is_empty() {
                self.token_similarity[own] =
                    isa.centred_cosine(view.token(first + i), view.token(first + to));
            }
        }
    }

    /// Whether row `i` of the image may leave.
    pub fn may_leave(&self, i: usize) -> bool {
        self.partner[i] != self.rows.start + i
    }
}

/// For each of n tokens: its partner and the cosine to it; `None` if it has to stay.
fn deal(cosines: &Cosines) -> Vec<Option<(usize, f32)>> {
    let n = cosines.len();
    let mut leaving = vec![None; n];
    if n < 2 {
        return leaving;
    }
    let mut stays = vec![false; n];
    // No token merges into one that may leave: its cosines count as out of reach.
    let mut reach = vec![0.0; n];
    for i in most_alike_first(cosines.nearest()) {
        if stays[i] {
            continue;
        }
        let (mut cosine, mut to) = cosines.nearest()[i];
        if leaving[to].is_some() {
            (cosine, to) = cosines.nearest_within(i, &reach);
            if cosine < -1.5 {
                continue;
            }
        }
        leaving[i] = Some((to, cosine));
        reach[i] = f32::NEG_INFINITY;
        stays[to] = true;
    }
    leaving
}

/// The vectors in falling order of the cosine to their `nearest`; of equal ones the first comes first.
fn most_alike_first(nearest: &[(f32, usize)]) -> impl Iterator<Item = usize> {
    // Bits that fall as the number rises, in the order of `total_cmp`; the place in the bits below them.
    let falling = |value: f32| {
        let bits = value.to_bits();
        if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
    };
    let mut order: Vec<u64> = nearest
        .iter()
        .enumerate()
        .map(|(i, (cosine, _))| u64::from(falling(*cosine)) << 32 | i as u64)
        .collect();
    order.sort_unstable();
    order.into_iter().map(|key| key as u32 as usize)
}

/// Writes the mean of 1 - cosine of each of n `unit: [n, d]` vectors and the others into `seclusion: [n]`.
fn seclusion(unit: &[f32], d: usize, seclusion: &mut [f32]) {
    let mut sum = vec![0.0; d];
    for vector in unit.chunks_exact(d) {
        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
    }
    let others = seclusion.len().saturating_sub(1).max(1) as f32;
    for (secluded, vector) in seclusion.iter_mut().zip(unit.chunks_exact(d)) {
        let with_all: f32 = vector.iter().zip(&sum).map(|(x, sum)| x * sum).sum();
        *secluded = 1.0 - (with_all - 1.0) / others;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dealt(keys: &[f32], d: usize) -> Vec<Option<(usize, f32)>> {
        let mut cosines = Cosines::default();
        cosines.compute(keys, d);
        deal(&cosines)
    }

    #[test]
    fn the_more_alike_of_a_pair_leaves_and_the_other_stays() {
        // 0 and 1 are nearly the same, 2 resembles both, 3 resembles none.
        let keys = [[1.0, 0.0], [1.0, 0.01], [0.9, 0.3], [-1.0, 0.2]].concat();
        let leaving = dealt(&keys, 2);
        let to: Vec<_> = leaving.iter().map(|l| l.map(|(to, _)| to)).collect();
        // 0 leaves into 1, which has to stay for it; 2 merges into 1, too; because 2 leaves, 3 can only merge into 1.
        assert_eq!(to, [Some(1), None, Some(1), Some(1)]);
        assert!(leaving[0].unwrap().1 > leaving[2].unwrap().1);
    }

    #[test]
    fn one_token_has_nobody_to_join() {
        assert_eq!(dealt(&[1.0, 2.0], 2), [None]);
        assert_eq!(dealt(&[], 2), []);
    }

    /// The same rule without remembered nearest neighbours.
    fn slowly(cosines: &Cosines) -> Vec<Option<(usize, f32)>> {
        let n = cosines.len();
        let best = |i: usize, allowed: &dyn Fn(usize) -> bool| {
            let mut best: Option<(usize, f32)> = None;
            for j in (0..n).filter(|j| *j != i && allowed(*j)) {
                if best.is_none_or(|(_, c)| cosines.get(i, j) > c) {
                    best = Some((j, cosines.get(i, j)));
                }
            }
            best
        };
        let (mut leaving, mut stays) = (vec![None; n], vec![false; n]);
        let mut order: Vec<(f32, usize)> =
            (0..n).filter_map(|i| best(i, &|_| true).map(|(_, c)| (c, i))).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, i) in order {
            if let (false, Some((j, cosine))) = (stays[i], best(i, &|j| leaving[j].is_none())) {
                leaving[i] = Some((j, cosine));
                stays[j] = true;
            }
        }
        leaving
    }

    proptest! {
        #[test]
        fn roles_are_those_of_the_slow_rule(n in 0usize..200, d in 1usize..40, seed: u64) {
            let mut values = vitrim_kernels::reference::values(seed);
            let keys: Vec<f32> = (0..n * d).map(|_| values()).collect();
            let mut cosines = Cosines::default();
            // What is left of another image does no harm.
            cosines.compute(&vec![1.0; d * (seed % 150) as usize], d);
            cosines.compute(&keys, d);
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j) {
                let dot = |a: usize, b: usize| -> f64 {
                    (0..d).map(|c| f64::from(keys[a * d + c]) * f64::from(keys[b * d + c])).sum()
                };
                let exact = dot(i, j) / (dot(i, i) * dot(j, j)).sqrt();
                prop_assert!((f64::from(cosines.get(i, j)) - exact).abs() < 1e-5);
            }
            let leaving = deal(&cosines);
            prop_assert_eq!(&leaving, &slowly(&cosines));
            let joined = leaving.iter().flatten().all(|(to, _)| leaving[*to].is_none());
            prop_assert!(joined, "nobody joins one that may leave");
        }
    }
}
