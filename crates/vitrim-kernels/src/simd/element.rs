//! What lanes are stored as, and what becomes of them before.

use super::vector::Vector;

/// A type that a lane is stored as.
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
    /// The elements of words that hold one each.
    pub fn of(words: &mut [u32]) -> &mut [WideBf16] {
        // SAFETY: the type is an f32, whose size and alignment are a word's, and every bit pattern is a value of both.
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

/// A function of lanes, applied before they are stored. A type, since a closure's call may stay a call, and the callee is then
/// compiled without the set's instructions.
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

/// Stores `M` of the first values of `x`, as many as `to` is long, as `T`.
#[inline(always)]
pub(crate) fn store_row<S: Vector, T: Element, M: Map>(s: S, x: &[f32], to: &mut [T]) {
    // Whole registers apart: a panel's rows are few of them, each of which would ask how long it is.
    let (x, rest) = x[..to.len()].split_at(to.len() / S::LANES * S::LANES);
    let mut vectors = to.chunks_exact_mut(S::LANES);
    for (to, x) in vectors.by_ref().zip(x.chunks_exact(S::LANES)) {
        T::store(s, to, M::map(s, s.load(x)));
    }
    if !rest.is_empty() {
        T::store(s, vectors.into_remainder(), M::map(s, s.load(rest)));
    }
}
