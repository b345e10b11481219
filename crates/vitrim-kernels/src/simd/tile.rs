//! The micro-kernel: a tile of sums of products, held in registers from the first step to the last.

use std::ptr::null;

use super::dot::{Dot, STEPS};
use super::vector::Vector;
use crate::line::Line;
use crate::precision::WordLayout;

/// A micro-kernel: `y[i][..] = finish(sum_k a[i][k] . b[k][..])` for a fixed number of rows `i` and vectors a row.
///
/// # Safety
/// `a` points at rows of `steps` words, `a_stride` words apart; `b` at `steps` rows of the tile's width,
/// contiguous; and `sink` as its fields say. The processor has the instructions of the set that the tile was asked of: whoever
/// asked had its token.
pub(crate) type Tile = unsafe fn(a: *const u32, a_stride: usize, b: *const u32, steps: usize, sink: &Sink);

/// Where a tile's sums go.
pub(crate) struct Sink {
    /// Rows of the tile's width, `stride` values apart.
    pub y: *mut f32,
    pub stride: usize,
    /// As many values as the tile is wide, added to each row.
    pub bias: *const f32,
    /// For sums of 8-bit products alone.
    pub scales: Scales,
    /// What is brought into cache meanwhile.
    pub prefetch: Prefetch,
}

/// Cache lines that a tile fetches for those that come after it. A processor's own prefetchers follow what is being read; they do
/// not know that after many tiles of one panel comes another.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    /// The first line. It is never read: any address will do.
    pub from: *const u32,
    /// Lines to fetch at every [`STEPS`] steps.
    pub lines: usize,
}

impl Prefetch {
    pub const NONE: Prefetch = Prefetch { from: null(), lines: 0 };
}

/// How an 8-bit row reads: `scale (q - zero)`, with an integer zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowScale {
    pub scale: f32,
    pub zero: f32,
}

/// What turns sums of 8-bit products back into f32; null for f32 and bf16.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    /// One for each of the tile's rows.
    pub rows: *const RowScale,
    /// For each column, the weight's scale.
    pub columns: *const f32,
    /// For each column, the sum of the weight's integers.
    pub sums: *const f32,
}

impl Scales {
    pub const NONE: Scales = Scales { rows: null(), columns: null(), sums: null() };
}

/// Brings the line that holds `p`, which need not be a readable address, into cache. Does nothing on other processors than x86-64, whose
/// instruction for it is in every set.
#[inline(always)]
pub(crate) fn prefetch(p: *const u32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the processor ignores an address that it cannot read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// The body of every [`Tile`]: accumulators stay in registers over all of `steps`; each word of `a` is
/// broadcast once and multiplied with a row of `b`.
///
/// # Safety
/// As [`Tile`], for `MR` rows and `NV` vectors a row.
#[inline(always)]
pub(crate) unsafe fn tile<S: Vector, D: Dot<S>, const ADD: bool, const MR: usize, const NV: usize>(
    s: S,
    mut a: *const u32,
    a_stride: usize,
    mut b: *const u32,
    steps: usize,
    sink: &Sink,
) {
    let mut acc = [[s.splat(0.0); NV]; MR];
    let mut left = steps;
    let mut ahead = sink.prefetch.from;
    while left >= STEPS {
        for _ in 0..sink.prefetch.lines {
            prefetch(ahead);
            ahead = ahead.wrapping_add(Line::WORDS);
        }
        // SAFETY: as many steps are left of a's rows and of b.
        unsafe {
            D::advance(s, &mut acc, a, a_stride, b, STEPS);
            (a, b) = (a.add(STEPS), b.add(STEPS * NV * S::LANES));
        }
        left -= STEPS;
    }
    // SAFETY: `left` steps are left.
    unsafe { D::advance(s, &mut acc, a, a_stride, b, left) };
    // One call a vector instead of a loop, which would index the accumulators and so put them into memory.
    const { assert!(NV <= 3) };
    // SAFETY: the caller keeps `Tile`'s contract.
    unsafe {
        finish::<S, D, ADD, MR, NV>(s, &acc, 0, sink);
        if NV > 1 {
            finish::<S, D, ADD, MR, NV>(s, &acc, 1, sink);
        }
        if NV > 2 {
            finish::<S, D, ADD, MR, NV>(s, &acc, 2, sink);
        }
    }
}

/// Writes vector `j` of each of a tile's rows to its sink.
///
/// # Safety
/// As [`Tile`], and `j < NV`.
#[inline(always)]
unsafe fn finish<S: Vector, D: Dot<S>, const ADD: bool, const MR: usize, const NV: usize>(
    s: S,
    acc: &[[S::V; NV]; MR],
    j: usize,
    sink: &Sink,
) {
    let column = j * S::LANES;
    // SAFETY: the sink's columns are NV vectors.
    let (y, bias) = unsafe { (sink.y.add(column), s.load_all(sink.bias.add(column).cast())) };
    let integers = matches!(D::LAYOUT, WordLayout::Int8Quad { .. });
    let (mut scales, mut sums) = (bias, bias);
    if integers {
        // SAFETY: so are these, where sums are of integers.
        unsafe {
            scales = s.load_all(sink.scales.columns.add(column).cast());
            sums = s.load_all(sink.scales.sums.add(column).cast());
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let mut v = if integers {
            // SAFETY: the tile has MR rows.
            let RowScale { scale, zero } = unsafe { *sink.scales.rows.add(i) };
            let integer = s.fma(s.splat(-zero), sums, s.i32_to_f32(acc[j]));
            s.fma(integer, s.mul(scales, s.splat(scale)), bias)
        } else {
            s.add(acc[j], bias)
        };
        // SAFETY: row i of y holds the sink's columns.
        unsafe {
            let y = y.add(i * sink.stride).cast();
            if ADD {
                v = s.add(s.load_all(y), v);
            }
            s.store_all(y, v);
        }
    }
}

/// `&[[Tile; vectors]; rows]` of a generic function `$tile::<Dot, ADD, rows, vectors>`: a constant, since a table that were
/// built on the stack for each tile would cost as much as a few of its steps.
macro_rules! tiles {
    ($tile:ident, $dot:ty, $add:literal, [$($rows:literal)*], $vectors:tt) => {
        const { &[$(crate::simd::tile::tiles!(@row $tile, $dot, $add, $rows, $vectors)),*] }
    };
    (@row $tile:ident, $dot:ty, $add:literal, $rows:literal, [$($vectors:literal)*]) => {
        [$($tile::<$dot, $add, $rows, $vectors> as crate::simd::tile::Tile),*]
    };
}
pub(crate) use tiles;
