//! Words of activations, which one kernel writes and another reads.

use std::fmt::Debug;

use crate::InstructionSet;
use crate::line::{self, Line, floats_mut, halves_mut};
use crate::simd::vector::Vector;
use crate::simd::{Identity, Kernel, Simd, store_row};

/// Two values rounded to bf16, the first in the low half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16Pair(u32);

mod sealed {
    use super::{Words, WordsMut};

    /// A 32-bit word for which every bit pattern is valid.
    pub trait Sealed: Sized {
        /// `x`, as a slice of its concrete type of word.
        fn known(x: &[Self]) -> Words<'_>;

        /// `x`, as a mutable slice of its concrete type of word.
        fn known_mut(x: &mut [Self]) -> WordsMut<'_>;
    }
}

impl sealed::Sealed for f32 {
    fn known(x: &[f32]) -> Words<'_> {
        Words::F32(x)
    }

    fn known_mut(x: &mut [f32]) -> WordsMut<'_> {
        WordsMut::F32(x)
    }
}

impl sealed::Sealed for Bf16Pair {
    fn known(x: &[Bf16Pair]) -> Words<'_> {
        Words::Pairs(x)
    }

    fn known_mut(x: &mut [Bf16Pair]) -> WordsMut<'_> {
        WordsMut::Pairs(x)
    }
}

/// A word of activations: an `f32`, or a [`Bf16Pair`], which takes half the memory per value and is the operand of
/// instructions for pairs of bf16. A row of pairs has an even number of values.
pub trait Word: sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static {
    /// Values per word.
    const VALUES: usize;

    /// The values of the word as f32; the second is 0 for words of one value.
    fn values(self) -> [f32; 2];
}

/// Activations, by type of word.
#[derive(Clone, Copy)]
pub enum Words<'a> {
    F32(&'a [f32]),
    Pairs(&'a [Bf16Pair]),
}

/// Mutable activations, by type of word.
pub enum WordsMut<'a> {
    F32(&'a mut [f32]),
    Pairs(&'a mut [Bf16Pair]),
}

impl Word for f32 {
    const VALUES: usize = 1;

    fn values(self) -> [f32; 2] {
        [self, 0.0]
    }
}

impl Word for Bf16Pair {
    const VALUES: usize = 2;

    fn values(self) -> [f32; 2] {
        [f32::from_bits(self.0 << 16), f32::from_bits(self.0 & 0xffff_0000)]
    }
}

impl InstructionSet {
    /// Writes the values of `x` to `to`, rounded to nearest even if `to` consists of pairs.
    ///
    /// # Panics
    /// If the numbers of values differ.
    pub fn convert<W: Word>(self, x: &[f32], to: &mut [W]) {
        assert_eq!(x.len(), to.len() * W::VALUES, "as many of both");
        self.run(Convert { x, to });
    }
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
            store_row::<S, _, Identity>(s, self.x, halves_mut(words_mut(self.to)));
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

/// Views words as activations of either type.
fn of_bits_mut<W: Word>(words: &mut [u32]) -> &mut [W] {
    // SAFETY: as in `words`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// A reusable buffer of [`Word`]s of either type that starts at a cache line.
#[derive(Debug, Default)]
pub struct LineBuffer(Vec<Line>);

impl LineBuffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        LineBuffer(Vec::new())
    }

    /// The first `len` words, unspecified; the buffer grows if it has fewer, and never shrinks.
    pub fn room<W: Word>(&mut self, len: usize) -> &mut [W] {
        let lines = len.div_ceil(Line::WORDS);
        if self.0.len() < lines {
            // The old buffer is freed before the new one is allocated.
            self.0 = Vec::new();
            self.0 = vec![Line::ZERO; lines];
        }
        &mut of_bits_mut(line::words_mut(&mut self.0))[..len]
    }
}

/// Stores lanes as the values of `row` from `first` on, as many as `row` has.
#[inline(always)]
pub(crate) fn store<S: Vector, W: Word>(s: S, row: &mut [W], first: usize, v: S::V) {
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
            for set in InstructionSet::supported() {
                let mut same = vec![f32::NAN; x.len()];
                set.convert(&x, &mut same);
                prop_assert_eq!(&same, &x);
                let mut pairs = vec![Bf16Pair::default(); count];
                set.convert(&x, &mut pairs);
                let back: Vec<f32> = pairs.iter().flat_map(|pair| pair.values()).collect();
                let rounded: Vec<f32> = x.iter().map(|v| reference::bf16(*v)).collect();
                prop_assert_eq!(back, rounded);
            }
        }
    }

    #[test]
    fn room_starts_at_a_line_and_never_shrinks() {
        let mut buffer = LineBuffer::new();
        assert!(buffer.room::<f32>(0).is_empty());
        let first = buffer.room::<f32>(33);
        assert_eq!((first.len(), first.as_ptr().align_offset(64)), (33, 0));
        let place = first.as_ptr();
        assert_eq!(buffer.room::<Bf16Pair>(48).as_ptr().cast(), place, "a third line is there");
        assert_eq!(buffer.room::<f32>(49).len(), 49);
    }
}
