//! Activations on their way from one kernel to another.

use std::fmt::Debug;

use crate::linear::Output;
use crate::precision::Layout;
use crate::rows::{Operand, floats_mut, halves_mut, store_row};
use crate::simd::{Kernel, Same, Simd, dispatch};
use crate::{Level, Precision};

/// Two values rounded to bf16, the first in the low half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16Pair(u32);

mod sealed {
    /// A 32-bit word that any bits are a value of.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16Pair {}
}

/// A word of activations: an `f32`, or a [`Bf16Pair`], half as much to move and what instructions for pairs of bf16 multiply. A row
/// of pairs has an even number of values.
pub trait Word: sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static {
    /// Values in a word.
    const VALUES: usize;

    /// They, and zero where there is no second.
    fn values(self) -> [f32; 2];

    /// A layer's output, to be stored in `y`: `[rows, out / VALUES]`.
    fn output(y: &mut [Self]) -> Output<'_>;

    /// A layer's rows, `x: [rows, in / VALUES]`.
    fn operand(x: &[Self]) -> Operand<'_>;
}

impl Word for f32 {
    const VALUES: usize = 1;

    fn values(self) -> [f32; 2] {
        [self, 0.0]
    }

    fn output(y: &mut [f32]) -> Output<'_> {
        Output::Store(y)
    }

    fn operand(x: &[f32]) -> Operand<'_> {
        Operand::F32(x)
    }
}

impl Word for Bf16Pair {
    const VALUES: usize = 2;

    fn values(self) -> [f32; 2] {
        [f32::from_bits(self.0 << 16), f32::from_bits(self.0 & 0xffff_0000)]
    }

    fn output(y: &mut [Bf16Pair]) -> Output<'_> {
        Output::StorePairs(y)
    }

    fn operand(x: &[Bf16Pair]) -> Operand<'_> {
        Operand::Pairs(x)
    }
}

/// Whether `level` multiplies pairs of bf16.
pub fn multiplies_pairs(level: Level) -> bool {
    Layout::new(Precision::Bf16, level) == Layout::Bf16Pair
}

/// `to` become the values of `x`, rounded to nearest even where they are pairs.
///
/// # Panics
/// If there are not as many of both, or they are pairs and the level in force multiplies none.
pub fn convert<W: Word>(x: &[f32], to: &mut [W]) {
    convert_at(Level::current(), x, to);
}

/// [`convert`] with the instructions of `level`.
///
/// # Panics
/// As [`convert`], or if the processor lacks the level.
pub fn convert_at<W: Word>(level: Level, x: &[f32], to: &mut [W]) {
    assert_eq!(x.len(), to.len() * W::VALUES, "as many of both");
    assert!(W::VALUES == 1 || multiplies_pairs(level), "a level that knows pairs");
    dispatch(level, Convert { x, to });
}

struct Convert<'a, W> {
    x: &'a [f32],
    to: &'a mut [W],
}

impl<W: Word> Kernel for Convert<'_, W> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if W::VALUES == 1 {
            floats_mut(words_mut(self.to)).copy_from_slice(self.x);
        } else {
            store_row::<S, _, Same>(s, self.x, halves_mut(words_mut(self.to)));
        }
    }
}

/// Activations as the words that kernels read.
pub(crate) fn words<W: Word>(x: &[W]) -> &[u32] {
    // SAFETY: a word has the size and alignment of a u32, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// Activations as the words that kernels write.
pub(crate) fn words_mut<W: Word>(x: &mut [W]) -> &mut [u32] {
    // SAFETY: as in `words`.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// Words that hold activations of either kind.
pub(crate) fn of_bits_mut<W: Word>(words: &mut [u32]) -> &mut [W] {
    // SAFETY: as in `words`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// Stores lanes as the values of `row` from `first` on, as many as it has.
#[inline(always)]
pub(crate) fn store<S: Simd, W: Word>(s: S, row: &mut [W], first: usize, v: S::V) {
    let row = words_mut(row);
    if W::VALUES == 1 {
        s.store(&mut floats_mut(row)[first..], v);
    } else {
        let to = &mut halves_mut(row)[first..];
        let count = to.len().min(S::LANES);
        s.store_bf16(&mut to[..count], v);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    proptest! {
        #[test]
        fn values_are_rounded_once(count in 0usize..50, seed: u64) {
            let mut values = reference::values(seed);
            let x: Vec<f32> = (0..2 * count).map(|_| values()).collect();
            for level in Level::supported() {
                let mut same = vec![f32::NAN; x.len()];
                convert_at(level, &x, &mut same);
                prop_assert_eq!(&same, &x);
                if multiplies_pairs(level) {
                    let mut pairs = vec![Bf16Pair::default(); count];
                    convert_at(level, &x, &mut pairs);
                    let back: Vec<f32> = pairs.iter().flat_map(|pair| pair.values()).collect();
                    let rounded: Vec<f32> = x.iter().map(|v| reference::bf16(*v)).collect();
                    prop_assert_eq!(back, rounded);
                }
            }
        }
    }

    #[test]
    fn pairs_are_for_levels_that_multiply_them() {
        for level in Level::ALL {
            assert_eq!(
                multiplies_pairs(level),
                matches!(level, Level::Scalar | Level::Avx512Bf16Vnni),
                "{level}"
            );
        }
    }
}
