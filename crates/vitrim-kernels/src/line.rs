//! Words that start where cache lines do: a register of them then lies in one line, not in two.

use crate::simd::MAX_LANES;
use crate::word::{Word, of_bits_mut};

/// A cache line of words.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([u32; MAX_LANES]);

impl Line {
    pub const ZERO: Line = Line::of(0);

    /// `word`, as often as it fits.
    pub const fn of(word: u32) -> Line {
        Line([word; MAX_LANES])
    }
}

/// A buffer of [`Word`]s, of one kind or the other, that is used again and again.
#[derive(Debug, Default)]
pub struct LineBuffer(Vec<Line>);

impl LineBuffer {
    /// An empty one.
    pub const fn new() -> Self {
        LineBuffer(Vec::new())
    }

    /// The first `len` words, unspecified; the buffer grows where it has less, and never shrinks.
    pub fn room<W: Word>(&mut self, len: usize) -> &mut [W] {
        let lines = len.div_ceil(MAX_LANES);
        if self.0.len() < lines {
            // The old one goes before the new one comes.
            self.0 = Vec::new();
            self.0 = vec![Line::ZERO; lines];
        }
        &mut of_bits_mut(words_mut(&mut self.0))[..len]
    }
}

/// The words of `lines`.
pub(crate) fn words(lines: &[Line]) -> &[u32] {
    // SAFETY: a line is 16 words.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * MAX_LANES) }
}

/// The words of `lines`.
pub(crate) fn words_mut(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: as in `words`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * MAX_LANES) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Bf16Pair;

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
