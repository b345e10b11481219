//! Cache lines of 32-bit words, and views of words as the values in them.

/// A cache line of words. A register of words that starts at the start of a line lies in one line, not in two.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([u32; Line::WORDS]);

impl Line {
    /// Words per line.
    pub const WORDS: usize = 16;

    pub const ZERO: Line = Line::filled(0);

    /// A line in which each word is `word`.
    pub const fn filled(word: u32) -> Line {
        Line([word; Line::WORDS])
    }
}

/// The words of `lines`.
pub(crate) fn words(lines: &[Line]) -> &[u32] {
    // SAFETY: a line is 16 words.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * Line::WORDS) }
}

/// The words of `lines`, mutable.
pub(crate) fn words_mut(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: as in `words`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * Line::WORDS) }
}

/// The f32 in each word.
pub(crate) fn floats(words: &[u32]) -> &[f32] {
    // SAFETY: f32 and u32 have one size and alignment, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// The f32 in each word, mutable.
pub(crate) fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: as in `floats`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// The two halves of each word, the low one first.
pub(crate) fn halves(words: &[u32]) -> &[u16] {
    // SAFETY: a word is two u16 of any bits, and aligned for them.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
}

/// The two halves of each word, the low one first, mutable.
pub(crate) fn halves_mut(words: &mut [u32]) -> &mut [u16] {
    // SAFETY: as in `halves`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

/// The four bytes of each word, the lowest first.
#[cfg(test)]
pub(crate) fn bytes(words: &[u32]) -> &[u8] {
    // SAFETY: a word is four bytes of any bits.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 4 * words.len()) }
}

/// The four bytes of each word, the lowest first, mutable.
pub(crate) fn bytes_mut(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: a word is four bytes of any bits.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 4 * words.len()) }
}

const _: () = assert!(cfg!(target_endian = "little"), "pairs and quads of a word are read little-endian");
