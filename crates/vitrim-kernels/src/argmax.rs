//! Maxima and their indices.

use crate::InstructionSet;
use crate::simd::{Kernel, Simd};

/// Vectors of columns whose maxima are found together.
const COLUMN_VECTORS: usize = 4;

/// The index of the maximum of `values`: the first, if several are equal; 0 if `values` is empty.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = [(0.0, 0)];
    InstructionSet::current().argmax_rows(values, values.len(), &mut best);
    best[0].1
}

impl InstructionSet {
    /// The maximum of each row of `values: [R, width]` and its index in the row, see [`argmax`].
    ///
    /// # Panics
    /// If the length of `out` is not R, or `values` does not consist of whole rows.
    pub fn argmax_rows(self, values: &[f32], width: usize, out: &mut [(f32, usize)]) {
        assert_eq!(values.len(), width * out.len(), "one result a row");
        self.run(Rows { values, width, out });
    }

    /// The maximum of each column of `values: [R, width]`, the width being that of `out`, and its index in the column:
    /// the first, if several are equal. Faster than [`InstructionSet::argmax_rows`].
    ///
    /// # Panics
    /// If `values` does not consist of whole rows, or of more than 2^24.
    pub fn argmax_columns(self, values: &[f32], out: &mut [(f32, usize)]) {
        assert!(values.is_empty() || values.len().is_multiple_of(out.len()), "values is [R, width]");
        assert!(values.len() <= out.len() << 24, "an f32 holds every index");
        self.run(Columns { values, out });
    }

    /// The maximum of the sums `a[i] + b[i]`, and its index: the first, if several are equal.
    ///
    /// # Panics
    /// If `a` and `b` differ in length.
    pub fn argmax_of_sums(self, a: &[f32], b: &[f32]) -> (f32, usize) {
        assert_eq!(a.len(), b.len(), "as many of both");
        self.run(Sums { a, b })
    }
}

struct Rows<'a> {
    values: &'a [f32],
    width: usize,
    out: &'a mut [(f32, usize)],
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.width == 0 {
            return self.out.fill((f32::NEG_INFINITY, 0));
        }
        for (row, out) in self.values.chunks_exact(self.width).zip(self.out) {
            let mut max = s.splat(f32::NEG_INFINITY);
            for chunk in row.chunks(S::LANES) {
                max = s.max(lowest_behind(s, chunk.len(), s.load(chunk)), max);
            }
            let max = s.reduce_max(max);
            let mut place = 0;
            for (c, chunk) in row.chunks(S::LANES).enumerate() {
                let equal = equal_among(s, chunk.len(), s.load(chunk), max);
                if equal != 0 {
                    place = c * S::LANES + equal.trailing_zeros() as usize;
                    break;
                }
            }
            *out = (max, place);
        }
    }
}

struct Columns<'a> {
    values: &'a [f32],
    out: &'a mut [(f32, usize)],
}

impl Kernel for Columns<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.out.len();
        let block = COLUMN_VECTORS * S::LANES;
        for (c, out) in self.out.chunks_mut(block).enumerate() {
            let mut max = [s.splat(f32::NEG_INFINITY); COLUMN_VECTORS];
            let mut places = [s.splat(0.0); COLUMN_VECTORS];
            for (r, row) in self.values.chunks_exact(width).enumerate() {
                let (place, row) = (s.splat(r as f32), &row[c * block..][..out.len()]);
                for ((max, places), chunk) in max.iter_mut().zip(&mut places).zip(row.chunks(S::LANES)) {
                    let v = s.load(chunk);
                    *places = s.where_larger(v, *max, place, *places);
                    *max = s.max(v, *max);
                }
            }
            for ((max, places), out) in max.into_iter().zip(places).zip(out.chunks_mut(S::LANES)) {
                let mut lanes = [[0.0; MOST_LANES]; 2];
                s.store(&mut lanes[0], max);
                s.store(&mut lanes[1], places);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = (lanes[0][i], lanes[1][i] as usize);
                }
            }
        }
    }
}

/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

struct Sums<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Sums<'_> {
    type Out = (f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, usize) {
        let mut max = s.splat(f32::NEG_INFINITY);
        for (a, b) in self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES)) {
            max = s.max(lowest_behind(s, a.len(), s.add(s.load(a), s.load(b))), max);
        }
        let max = s.reduce_max(max);
        for (c, (a, b)) in self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES)).enumerate() {
            let equal = equal_among(s, a.len(), s.add(s.load(a), s.load(b)), max);
            if equal != 0 {
                return (max, c * S::LANES + equal.trailing_zeros() as usize);
            }
        }
        (max, 0)
    }
}

/// The first `n` lanes of `v`; the others are lower than every number.
#[inline(always)]
fn lowest_behind<S: Simd>(s: S, n: usize, v: S::V) -> S::V {
    if n >= S::LANES { v } else { s.first(n, v, s.splat(f32::NEG_INFINITY)) }
}

/// Which of the first `n` lanes of `v` are equal to `wanted`.
#[inline(always)]
fn equal_among<S: Simd>(s: S, n: usize, v: S::V, wanted: f32) -> u32 {
    let equal = s.equal_lanes(v, s.splat(wanted));
    if n >= S::LANES { equal } else { equal & ((1 << n) - 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The maximum and its first index, value by value.
    fn slowly(values: &[f32]) -> (f32, usize) {
        let mut best = (f32::NEG_INFINITY, 0);
        for (i, v) in values.iter().enumerate() {
            if *v > best.0 {
                best = (*v, i);
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_first_maximum_is_found(width in 1usize..70, rows in 0usize..40, seed: u64) {
            let mut draw = crate::reference::values(seed);
            // Few different values, so that some are equal.
            let values: Vec<f32> = (0..width * rows).map(|_| (4.0 * draw()).round()).collect();
            let reach: Vec<f32> =
                (0..width).map(|i| if i % 3 == 0 { f32::NEG_INFINITY } else { 0.0 }).collect();
            for set in InstructionSet::supported() {
                let mut out = vec![(0.0, 0); rows];
                set.argmax_rows(&values, width, &mut out);
                for (row, out) in values.chunks_exact(width).zip(out) {
                    prop_assert_eq!(out, slowly(row));
                    prop_assert_eq!(argmax(row), out.1);
                    let sums: Vec<f32> = row.iter().zip(&reach).map(|(a, b)| a + b).collect();
                    prop_assert_eq!(set.argmax_of_sums(row, &reach), slowly(&sums));
                }
                let mut columns = vec![(0.0, 0); width];
                set.argmax_columns(&values, &mut columns);
                for (c, best) in columns.into_iter().enumerate() {
                    let column: Vec<f32> = values.iter().skip(c).step_by(width).copied().collect();
                    prop_assert_eq!(best, slowly(&column));
                }
            }
        }
    }

    #[test]
    fn what_has_no_maximum_has_the_first_place() {
        assert_eq!(argmax(&[]), 0);
        InstructionSet::current().argmax_columns(&[], &mut []);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 20]), 0);
        assert_eq!(argmax(&[f32::NAN, 1.0, 2.0]), 2, "what is no number is no maximum");
    }
}
