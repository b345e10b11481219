//! Maxima and their indices.

use crate::InstructionSet;
use crate::simd::{Kernel, Simd};

/// Values that are processed together, so that the compiler can use vectors.
const LANES: usize = 16;

/// The index of the maximum of `values`: the first, if several are equal; 0 if `values` is empty.
pub fn argmax(values: &[f32]) -> usize {
    max_and_place(values).1
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
    fn run<S: Simd>(self, _: S) {
        for (row, out) in self.values.chunks_exact(self.width.max(1)).zip(self.out) {
            *out = max_and_place(row);
        }
    }
}

struct Sums<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Sums<'_> {
    type Out = (f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (f32, usize) {
        let (a, b) = (self.a.chunks_exact(LANES), self.b.chunks_exact(LANES));
        let rest = a.remainder().iter().zip(b.remainder());
        let max = fold(a.zip(b), |lanes, (a, b)| {
            lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| {
                let sum = a + b;
                *lane = if sum > *lane { sum } else { *lane };
            });
        });
        let max = rest.fold(max, |m, (a, b)| if a + b > m { a + b } else { m });
        (max, place(self.a, |v, i| v + self.b[i] == max))
    }
}

/// The maximum of a row, and its first index.
#[inline(always)]
fn max_and_place(row: &[f32]) -> (f32, usize) {
    let max = fold(row.chunks_exact(LANES), |lanes, chunk| {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane = if *v > *lane { *v } else { *lane });
    });
    let rest = row.chunks_exact(LANES).remainder();
    let max = rest.iter().fold(max, |m, v| if *v > m { *v } else { m });
    (max, place(row, |v, _| *v == max))
}

/// The maximum over lanes; `each` merges a chunk into them.
#[inline(always)]
fn fold<T>(chunks: impl Iterator<Item = T>, each: impl Fn(&mut [f32; LANES], T)) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    chunks.for_each(|chunk| each(&mut lanes, chunk));
    lanes.iter().fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m })
}

/// The first index for which `found(value, index)` holds, searched chunk by chunk; 0 if there is none.
#[inline(always)]
fn place(values: &[f32], found: impl Fn(&f32, usize) -> bool) -> usize {
    for (c, chunk) in values.chunks(LANES).enumerate() {
        let start = c * LANES;
        let mut any = false;
        for (i, value) in chunk.iter().enumerate() {
            any |= found(value, start + i);
        }
        if any {
            return start + chunk.iter().enumerate().position(|(i, v)| found(v, start + i)).unwrap_or(0);
        }
    }
    0
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
        fn the_first_maximum_is_found(width in 1usize..70, rows in 0usize..5, seed: u64) {
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
            }
        }
    }

    #[test]
    fn what_has_no_maximum_has_the_first_place() {
        assert_eq!(argmax(&[]), 0);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 20]), 0);
        assert_eq!(argmax(&[f32::NAN, 1.0, 2.0]), 2, "what is no number is no maximum");
    }
}
