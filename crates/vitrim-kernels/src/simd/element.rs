//! Types in which lanes are stored, and functions that are applied to lanes before.

use super::vector::Vector;

/// A type in which a lane can be stored.
pub(crate) trait Element: Sized {
    /// Writes the first `min(LANES, to.len())` lanes.
    fn store<S: Vector>(s: S, to: &mut [Self], v: S::V);
}

impl Element for f32 {
    #[inline(always)]
    fn store<S: Vector>(s: S, to: &mut [f32], v: S::V) {
        s.store(to, v);
    }
}

/// bf16.
impl Element for u16 {
    #[inline(always)]
    fn store<S: Vector>(s: S, to: &mut [u16], v: S::V) {
        s.store_bf16(to, v);
    }
}

/// bf16, widened to f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct WideBf16(f32);

impl WideBf16 {
    /// Views words that hold one element each.
    pub fn of(words: &mut [u32]) -> &mut [WideBf16] {
        // SAFETY: the type is a transparent f32, with the size and alignment of a word; every bit pattern is valid
        // for both.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }
}

impl Element for WideBf16 {
    #[inline(always)]
    fn store<S: Vector>(s: S, to: &mut [WideBf16], v: S::V) {
        // SAFETY: as in `of`.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len()) };
        s.store(to, s.round_bf16(v));
    }
}

/// A function of lanes, applied before they are stored. It is a type, because the call of a closure may not be
/// inlined, and the callee would then be compiled without the set's instructions.
pub(crate) trait Map {
    fn map<S: Vector>(s: S, v: S::V) -> S::V;
}

/// Leaves lanes as they are.
pub(crate) struct Identity;

impl Map for Identity {
    #[inline(always)]
    fn map<S: Vector>(_: S, v: S::V) -> S::V {
        v
    }
}

/// Applies `M` to the first `to.len()` values of `x`, and stores them as `T`.
#[inline(always)]
pub(crate) fn store_row<S: Vector, T: Element, M: Map>(s: S, x: &[f32], to: &mut [T]) {
    // Whole registers are handled separately: a row of a panel has few of them, and each would check its length.
    let (x, rest) = x[..to.len()].split_at(to.len() / S::LANES * S::LANES);
    let mut vectors = to.chunks_exact_mut(S::LANES);
    for (to, x) in vectors.by_ref().zip(x.chunks_exact(S::LANES)) {
        T::store(s, to, M::map(s, s.load(x)));
    }
    if !rest.is_empty() {
        T::store(s, vectors.into_remainder(), M::map(s, s.load(rest)));
    }
}
