//! The micro-kernel: a tile of sums of products, which stay in registers from the first step to the last.

use std::ptr::null;

use super::dot::{Dot, STEPS};
use super::vector::Vector;
use crate::line::Line;
use crate::precision::WordLayout;

/// A micro-kernel: `y[i][..] = finish(sum_k a[i][k] . b[k][..])` for a fixed number of rows `i` and vectors per row.
///
/// # Safety
/// `a` points at rows of `steps` words, `a_stride` words apart; `b` at `steps` rows of the tile's width, contiguous;
/// and `sink` satisfies the comments of its fields. The processor has the instructions of the tile's set: the tile
/// was obtained with the set's token.
pub(crate) type Tile = unsafe fn(a: *const u32, a_stride: usize, b: *const u32, steps: usize, sink: &Sink);

/// The destination of a tile's sums.
pub(crate) struct Sink {
    /// Rows of the tile's width, `stride` values apart.
    pub y: *mut f32,
    pub stride: usize,
    /// Values that are added to each row: as many as the tile is wide.
    pub bias: *const f32,
    /// Scales of sums of 8-bit products; null for other types.
    pub scales: Scales,
    /// Cache lines to prefetch meanwhile.
    pub prefetch: Prefetch,
}

/// Cache lines that a tile prefetches for the tiles after it. The processor's own prefetchers follow the current
/// reads; they do not know that another panel comes after many tiles of one panel.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    /// The first line. It is never read: any address is allowed.
    pub from: *const u32,
    /// Number of lines to prefetch every [`STEPS`] steps.
    pub lines: usize,
}

impl Prefetch {
    pub const NONE: Prefetch = Prefetch { from: null(), lines: 0 };
}

/// The value of an 8-bit row's element: `scale (q - zero)`, with an integer zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowScale {
    pub scale: f32,
    pub zero: f32,
}

/// Converts sums of 8-bit products back to f32; null for f32 and bf16.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    /// One for each row of the tile.
    pub rows: *const RowScale,
    /// The weight's scale, for each column.
    pub columns: *const f32,
    /// The sum of the weight's integers, for each column.
    pub sums: *const f32,
}

impl Scales {
    pub const NONE: Scales = Scales { rows: null(), columns: null(), sums: null() };
}

/// Prefetches the line that holds `p`, which need not be a readable address. Does nothing on processors other than
/// x86-64, where the instruction is part of every set.
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

/// The body of every [`Tile`]: accumulators stay in registers over all `steps`; each word of `a` is broadcast once
/// and multiplied with a row of `b`.
///
/// # Safety
/// As [`Tile`], for `MR` rows and `NV` vectors per row.
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
        // SAFETY: at least as many steps of a's rows and of b are left.
        unsafe {
            D::advance(s, &mut acc, a, a_stride, b, STEPS);
            (a, b) = (a.add(STEPS), b.add(STEPS * NV * S::LANES));
        }
        left -= STEPS;
    }
    // SAFETY: `left` steps are left.
    unsafe { D::advance(s, &mut acc, a, a_stride, b, left) };
    // One call per vector instead of a loop, which would index the accumulators and so move them to memory.
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
    // SAFETY: the sink has NV vectors of columns.
    let (y, bias) = unsafe { (sink.y.add(column), s.load_all(sink.bias.add(column).cast())) };
    let integers = matches!(D::LAYOUT, WordLayout::Int8Quad { .. });
    let (mut scales, mut sums) = (bias, bias);
    if integers {
        // SAFETY: for sums of integers, these have NV vectors of columns, too.
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
        // SAFETY: row i of y has the sink's columns.
        unsafe {
            let y = y.add(i * sink.stride).cast();
            if ADD {
                v = s.add(s.load_all(y), v);
            }
            s.store_all(y, v);
        }
    }
}

/// `&[[Tile; vectors]; rows]` of a generic function `$tile::<Dot, ADD, rows, vectors>`. It is a constant, because
/// building the table on the stack for each tile would cost as much as a few of its steps.
macro_rules! tiles {
    ($tile:ident, $dot:ty, $add:literal, [$($rows:literal)*], $vectors:tt) => {
        const { &[$(crate::simd::tile::tiles!(@row $tile, $dot, $add, $rows, $vectors)),*] }
    };
    (@row $tile:ident, $dot:ty, $add:literal, $rows:literal, [$($vectors:literal)*]) => {
        [$($tile::<$dot, $add, $rows, $vectors> as crate::simd::tile::Tile),*]
    };
}
pub(crate) use tiles;
