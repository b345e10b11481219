//! How words of two operands are multiplied and added, by the type of their elements.

use super::vector::{DotU8S8, ShortDotU8S8, Vector};
use crate::precision::WordLayout;

/// Steps of a tile without a branch between them. Their addresses are constants relative to one register per row,
/// which leaves the processor's front end little work besides the multiplications. [`ShortInt8`] adds as many steps
/// in 16 bits.
pub(crate) const STEPS: usize = 4;

/// A product of words with the instructions of `S`, added to accumulators in registers.
pub(crate) trait Dot<S: Vector>: Sized {
    const LAYOUT: WordLayout;
    /// Rows of the largest tile whose accumulators fit into registers.
    const ROWS: usize = S::MR;

    /// `acc + a . b` of two words, lane by lane: i32 lanes for 8-bit integers, otherwise f32.
    fn dot(s: S, acc: S::V, a: S::V, b: S::V) -> S::V;

    /// Multiplies `steps`, at most [`STEPS`], steps of a tile.
    ///
    /// # Safety
    /// `a` points at `steps` words of each of MR rows, `a_stride` words apart, and `b` at as many steps of NV vectors.
    #[inline(always)]
    unsafe fn advance<const MR: usize, const NV: usize>(
        s: S,
        acc: &mut [[S::V; NV]; MR],
        a: *const u32,
        a_stride: usize,
        b: *const u32,
        steps: usize,
    ) {
        for k in 0..steps {
            // SAFETY: the step is one of the caller's steps.
            unsafe { step::<S, Self, MR, NV>(s, acc, a.add(k), a_stride, b.add(k * NV * S::LANES)) };
        }
    }
}

/// One f32 per word.
pub(crate) struct F32;

impl<S: Vector> Dot<S> for F32 {
    const LAYOUT: WordLayout = WordLayout::F32;

    #[inline(always)]
    fn dot(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.fma(a, b, acc)
    }
}

/// Two bf16 per word.
pub(crate) struct Bf16Pairs;

impl<S: Vector> Dot<S> for Bf16Pairs {
    const LAYOUT: WordLayout = WordLayout::Bf16Pair;

    #[inline(always)]
    fn dot(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.dot_bf16(acc, a, b)
    }
}

/// Four 8-bit integers per word, `a` unsigned, `b` signed, added in 32 bits.
pub(crate) struct Int8;

impl<S: DotU8S8> Dot<S> for Int8 {
    const LAYOUT: WordLayout = WordLayout::Int8Quad { max: u8::MAX };

    #[inline(always)]
    fn dot(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.dot_u8s8(acc, a, b)
    }
}

/// Four 8-bit integers per word, added in 16 bits over [`STEPS`] words and then in 32 bits. Activations and weights
/// are quantised so that no such sum can overflow ([`SHORT_MAX`], `linear/quantise.rs`); this costs some tenths of a
/// bit of resolution.
pub(crate) struct ShortInt8;

/// The largest 8-bit activation for short sums. Weights and activations share the range of an i16. Activations get
/// the larger part: a ViT's activations have a wider range, compared with most of their values, than its weights.
pub(crate) const SHORT_MAX: u8 = 200;

impl<S: ShortDotU8S8> Dot<S> for ShortInt8 {
    const LAYOUT: WordLayout = WordLayout::Int8Quad { max: SHORT_MAX };
    // Short sums need as many registers as long ones, and there are both.
    const ROWS: usize = S::MR / 2;

    #[inline(always)]
    fn dot(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.short_dot_u8s8(acc, a, b)
    }

    #[inline(always)]
    unsafe fn advance<const MR: usize, const NV: usize>(
        s: S,
        acc: &mut [[S::V; NV]; MR],
        a: *const u32,
        a_stride: usize,
        b: *const u32,
        steps: usize,
    ) {
        let mut sums = [[s.splat(0.0); NV]; MR];
        for k in 0..steps {
            // SAFETY: the step is one of the caller's steps.
            unsafe { step::<S, Self, MR, NV>(s, &mut sums, a.add(k), a_stride, b.add(k * NV * S::LANES)) };
        }
        for (acc, sums) in acc.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            *acc = s.add_short(*acc, *sums);
        }
    }
}

/// Multiplies one step of a tile: one word of each row of `a` with the vectors of `b`.
///
/// # Safety
/// `a` points at that word of the first of MR rows, `a_stride` words apart, and `b` at the step's NV vectors.
#[inline(always)]
unsafe fn step<S: Vector, D: Dot<S>, const MR: usize, const NV: usize>(
    s: S,
    acc: &mut [[S::V; NV]; MR],
    a: *const u32,
    a_stride: usize,
    b: *const u32,
) {
    let mut row = [s.splat(0.0); NV];
    for (j, v) in row.iter_mut().enumerate() {
        // SAFETY: the vector is one of the caller's NV vectors.
        *v = unsafe { s.load_all(b.add(j * S::LANES)) };
    }
    for (i, acc) in acc.iter_mut().enumerate() {
        // SAFETY: the row is one of the caller's MR rows.
        let word = unsafe { s.broadcast(a.add(i * a_stride)) };
        for (acc, v) in acc.iter_mut().zip(row) {
            *acc = D::dot(s, *acc, word, v);
        }
    }
}
