//! Transposition of matrices.

use crate::InstructionSet;
use crate::simd::{Kernel, Simd};
use crate::word::{words, words_mut};

impl InstructionSet {
    /// Writes `from: [rows, columns]` transposed into `to: [columns, rows]`.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn transpose(self, from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
        assert!(from.len() == rows * columns && to.len() == from.len(), "both hold rows x columns values");
        self.run(Transpose { from, rows, columns, to });
    }
}

struct Transpose<'a> {
    from: &'a [f32],
    rows: usize,
    columns: usize,
    to: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Transpose { from, rows, columns, to } = self;
        let whole = rows / S::LANES * S::LANES;
        transpose(s, words(from), columns, [whole, columns], words_mut(to), rows);
        for (r, row) in from.chunks_exact(columns.max(1)).enumerate().skip(whole) {
            for (c, value) in row.iter().enumerate() {
                to[c * rows + r] = *value;
            }
        }
    }
}

/// `to[j][i] = from[i][j]` for `i < rows`, `j < columns`; rows of `from` and `to` start at their strides. Values of `to`
/// behind the last row are overwritten up to a whole vector.
///
/// # Panics
/// If `from` or `to` is too short, or the rows of `to` have no room for whole vectors.
#[inline(always)]
pub(crate) fn transpose<S: Simd>(
    s: S,
    from: &[u32],
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: &mut [u32],
    to_stride: usize,
) {
    assert!(columns <= from_stride && rows.next_multiple_of(S::LANES) <= to_stride, "rows of whole vectors");
    assert!(from.len() >= rows * from_stride && to.len() >= columns * to_stride, "room for all rows");
    for i in (0..rows).step_by(S::LANES) {
        for j in (0..columns).step_by(S::LANES) {
            // SAFETY: rows i.. and columns j.. lie within `from`; a register at i of each row j.. lies within `to`.
            unsafe {
                s.transpose(
                    from.as_ptr().add(i * from_stride + j),
                    from_stride,
                    (rows - i).min(S::LANES),
                    (columns - j).min(S::LANES),
                    to.as_mut_ptr().add(j * to_stride + i),
                    to_stride,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_changes_row_and_column(rows in 0usize..50, columns in 0usize..50) {
            let from: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            for set in InstructionSet::supported() {
                let mut to = vec![f32::NAN; from.len()];
                set.transpose(&from, rows, columns, &mut to);
                for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                    prop_assert_eq!(to[c * rows + r], from[r * columns + c]);
                }
            }
        }
    }
}
