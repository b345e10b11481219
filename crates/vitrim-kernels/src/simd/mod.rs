//! One register of f32 or 32-bit words, at each [`Level`], and kernels written once against it.
//!
//! A kernel is a struct whose [`Kernel::run`] is generic over [`Simd`]; [`dispatch`] compiles it once a level
//! with that level's instructions enabled, so that everything `#[inline(always)]` beneath it vectorises.

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ptr::null;

use crate::Level;
use crate::rows::RowScale;

const _: () = assert!(cfg!(target_endian = "little"), "pairs and quads of a word are read little-endian");

/// The lanes of the widest register.
pub(crate) const MAX_LANES: usize = 16;

/// Steps of a tile without a branch between them: their addresses are constants beside one register a row, which leaves the front
/// end of the processor little to do but multiply. Short sums are of as many.
pub(crate) const STEPS: usize = 4;

/// A micro-kernel: `y[i][..] = finish(sum_k a[i][k] . b[k][..])` for a fixed number of rows `i` and vectors a row.
///
/// # Safety
/// `a` points at rows of `steps` words, `a_stride` words apart; `b` at `steps` rows of the tile's width,
/// contiguous; and `sink` as its fields say.
pub(crate) type Tile = unsafe fn(a: *const u32, a_stride: usize, b: *const u32, steps: usize, sink: &Sink);

/// What becomes of a tile's sums.
pub(crate) struct Sink {
    /// Rows of the tile's width, `stride` values apart.
    pub y: *mut f32,
    pub stride: usize,
    /// As many values as the tile is wide, added to each row.
    pub bias: *const f32,
    /// For sums of 8-bit products alone.
    pub quantised: Scales,
    /// What is brought into cache meanwhile.
    pub ahead: Ahead,
}

/// Lines that a tile fetches for those that come after it. A processor's own prefetchers follow what is being read; they do not
/// know that after many tiles of one panel comes another.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// The first. It is never read: any address will do.
    pub from: *const u32,
    /// How many at every [`STEPS`] steps.
    pub lines: usize,
}

impl Ahead {
    pub const NONE: Ahead = Ahead { from: null(), lines: 0 };
}

/// What turns sums of 8-bit products back into f32; null for what needs none of it.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    /// Of each of the tile's rows.
    pub rows: *const RowScale,
    /// Of each column: the weight's scale, and the sum of its integers.
    pub columns: *const f32,
    pub sums: *const f32,
}

impl Scales {
    pub const NONE: Scales = Scales { rows: null(), columns: null(), sums: null() };
}

/// How a word of an operand multiplies ([`crate::precision::Layout`]).
pub(crate) trait Dot {
    /// Whether sums are i32 that [`Scales`] turn into f32.
    const QUANTISED: bool = false;

    /// Rows of the largest tile, whose accumulators registers hold.
    #[inline(always)]
    fn rows<S: Simd>() -> usize {
        S::MR
    }

    /// `acc + a . b` of two words, lane by lane; i32 lanes if quantised, else f32.
    fn dot<S: Simd>(s: S, acc: S::V, a: S::V, b: S::V) -> S::V;
}

/// One f32 a word.
pub(crate) struct F32;
/// Two bf16 a word, the first in the low half.
pub(crate) struct Bf16;
/// Four integers a word, the first lowest: `a` unsigned, `b` signed.
pub(crate) struct U8S8;
/// The same, summed in i16 ([`Simd::SHORT_SUMS`]).
struct ShortU8S8;

impl Dot for F32 {
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.fma(a, b, acc)
    }
}

impl Dot for Bf16 {
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.dot_bf16(acc, a, b)
    }
}

impl Dot for U8S8 {
    const QUANTISED: bool = true;

    /// Short sums take as many registers as long ones.
    #[inline(always)]
    fn rows<S: Simd>() -> usize {
        if S::SHORT_SUMS { S::MR / 2 } else { S::MR }
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.dot_u8s8(acc, a, b)
    }
}

impl Dot for ShortU8S8 {
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
        s.dot_u8s8_short(acc, a, b)
    }
}

/// The instructions of a level. A value proves that the processor has them.
pub(crate) trait Simd: Copy {
    /// A register of [`Simd::LANES`] f32, or of as many 32-bit words.
    type V: Copy;
    /// Lanes of a register.
    const LANES: usize;
    /// Rows of the largest tile.
    const MR: usize;
    /// Vectors a row of the largest tile.
    const NV: usize;
    /// Whether products of 8-bit integers are added in 16 bits over [`STEPS`] words before they are in 32. Activations and weights
    /// are then quantised so that no such sum can overflow ([`crate::precision::greatest_activation`],
    /// [`crate::reference::quantise`]), to some tenths of a bit less.
    const SHORT_SUMS: bool;

    /// The tile of `rows` in `1..=MR` and `vectors` in `1..=NV`, which writes its sums, or adds them to what is
    /// there.
    fn tile<D: Dot>(rows: usize, vectors: usize, add: bool) -> Tile;

    fn splat(self, v: f32) -> Self::V;

    /// # Safety
    /// `p` points at a readable register of words.
    unsafe fn load_all(self, p: *const u32) -> Self::V;
    /// # Safety
    /// `p` points at `n <= LANES` readable words; the other lanes are zero.
    unsafe fn load_first(self, p: *const u32, n: usize) -> Self::V;
    /// # Safety
    /// `p` points at a writable register of words.
    unsafe fn store_all(self, p: *mut u32, v: Self::V);
    /// # Safety
    /// `p` points at `n <= LANES` writable words.
    unsafe fn store_first(self, p: *mut u32, n: usize, v: Self::V);
    /// The word at `p` in every lane.
    ///
    /// # Safety
    /// `p` points at a readable word.
    unsafe fn broadcast(self, p: *const u32) -> Self::V;
    /// `dst[c][r] = src[r][c]` for `r < rows`, `c < columns`; lanes from `rows` on become zero.
    ///
    /// # Safety
    /// `rows` and `columns` are at most [`Simd::LANES`]; `src` holds `rows` readable rows of `columns` words,
    /// `stride` apart; `dst` holds `columns` writable registers, `dst_stride` words apart.
    unsafe fn transpose(
        self,
        src: *const u32,
        stride: usize,
        rows: usize,
        columns: usize,
        dst: *mut u32,
        dst_stride: usize,
    );

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, v: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v 2^n` for integers `n` in -126..=127 and `v` in 0.5..2.
    fn scale2(self, v: Self::V, n: Self::V) -> Self::V;
    fn sum(self, v: Self::V) -> f32;
    fn greatest(self, v: Self::V) -> f32;

    /// The first `n <= LANES` lanes of `v`, the others of `rest`.
    fn first(self, n: usize, v: Self::V, rest: Self::V) -> Self::V;
    /// i32 to f32, to nearest even.
    fn float(self, v: Self::V) -> Self::V;

    /// `acc + a0 b0 + .. + a3 b3` of four integers a lane, `a` unsigned, `b` signed, in i32. Not where sums are short.
    fn dot_u8s8(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Rounds the first `dst.len() <= LANES` lanes, integers or not, to nearest even and clamps to 0..=255.
    fn store_u8(self, dst: &mut [u8], v: Self::V);

    // What short sums need.

    /// `acc + a0 b0 + a1 b1` in the low i16 of each lane, `acc + a2 b2 + a3 b3` in the high, neither of which may overflow.
    fn dot_u8s8_short(self, _acc: Self::V, _a: Self::V, _b: Self::V) -> Self::V {
        unreachable!("sums are long at this level")
    }
    /// `acc` and the two i16 of each lane of `sums`, in i32.
    fn add_short(self, _acc: Self::V, _sums: Self::V) -> Self::V {
        unreachable!("sums are long at this level")
    }

    // What one of the two layouts of bf16 needs, and so the levels that have it.

    /// `acc + a0 b0 + a1 b1` of two bf16 a lane.
    fn dot_bf16(self, _acc: Self::V, _a: Self::V, _b: Self::V) -> Self::V {
        unreachable!("bf16 is widened at this level")
    }
    /// Words of two bf16, the first `LANES` values of `low` in the low halves and of `high` in the high ones, zeros where there are fewer.
    fn interleave_bf16(self, _low: &[u16], _high: &[u16]) -> Self::V {
        unreachable!("bf16 is widened at this level")
    }
    /// Rounds the first `dst.len() <= LANES` lanes to bf16, to nearest even.
    fn store_bf16(self, _dst: &mut [u16], _v: Self::V) {
        unreachable!("bf16 is widened at this level")
    }
    /// Rounds to bf16, to nearest even, and back to f32.
    fn round_bf16(self, _v: Self::V) -> Self::V {
        unreachable!("bf16 lies in pairs at this level")
    }

    /// The first `min(LANES, x.len())` values; the other lanes are zero.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        if x.len() >= Self::LANES {
            // SAFETY: the length was just checked, and every f32 is a word.
            unsafe { self.load_all(x.as_ptr().cast()) }
        } else {
            // SAFETY: `x` holds that many.
            unsafe { self.load_first(x.as_ptr().cast(), x.len()) }
        }
    }

    /// Writes the first `min(LANES, x.len())` lanes.
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        if x.len() >= Self::LANES {
            // SAFETY: the length was just checked, and every word is an f32.
            unsafe { self.store_all(x.as_mut_ptr().cast(), v) }
        } else {
            // SAFETY: `x` holds that many.
            unsafe { self.store_first(x.as_mut_ptr().cast(), x.len(), v) }
        }
    }
}

/// What a lane is stored as.
pub(crate) trait Element: Sized {
    /// Writes the first `min(LANES, to.len())` lanes.
    fn store<S: Simd>(s: S, to: &mut [Self], v: S::V);
}

impl Element for f32 {
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [f32], v: S::V) {
        s.store(to, v);
    }
}

/// bf16.
impl Element for u16 {
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [u16], v: S::V) {
        s.store_bf16(to, v);
    }
}

/// What becomes of lanes before they are stored: a type, since a closure's call may stay one, and then leaves the level's instructions
/// behind.
pub(crate) trait Map {
    fn map<S: Simd>(s: S, v: S::V) -> S::V;
}

/// Nothing.
pub(crate) struct Same;

impl Map for Same {
    #[inline(always)]
    fn map<S: Simd>(_: S, v: S::V) -> S::V {
        v
    }
}

/// bf16, widened to f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct WideBf16(f32);

impl WideBf16 {
    /// The words of [`crate::precision::Layout::WideBf16`].
    pub fn of(words: &mut [u32]) -> &mut [WideBf16] {
        // SAFETY: the type is an f32, whose size and alignment are a word's, and every bit pattern is a value of both.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }
}

impl Element for WideBf16 {
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [WideBf16], v: S::V) {
        // SAFETY: as in `of`.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len()) };
        s.store(to, s.round_bf16(v));
    }
}

/// Something to run at a level. `run` and what it calls are `#[inline(always)]`: a call that stays a call, as that
/// of a closure may, leaves the level's instructions behind.
pub(crate) trait Kernel {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs `kernel` with the instructions of `level`.
///
/// # Panics
/// If the processor lacks them.
pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    assert!(level.is_supported(), "this processor lacks {level}");
    match level {
        // SAFETY: the level was just checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16Vnni => unsafe { avx512::run_with_dots(kernel) },
        // SAFETY: the level was just checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { avx512::run_with_vnni(kernel) },
        // SAFETY: the level was just checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::run(kernel) },
        // SAFETY: the level was just checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2Vnni => unsafe { avx2::run_with_vnni(kernel) },
        // SAFETY: the level was just checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::run(kernel) },
        _ => kernel.run(scalar::Scalar),
    }
}

/// [`Simd::SHORT_SUMS`] of a level.
#[cfg(test)]
pub(crate) fn has_short_sums(level: Level) -> bool {
    struct ShortSums;
    impl Kernel for ShortSums {
        type Out = bool;

        fn run<S: Simd>(self, _: S) -> bool {
            S::SHORT_SUMS
        }
    }
    dispatch(level, ShortSums)
}

/// Brings the line that holds `p`, which need not be a readable address, into cache. Does nothing on other processors than x86-64, whose
/// instruction for it is of every level.
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

/// Multiplies one step of a tile: a word of each row of `a` with the vectors of `b`.
///
/// # Safety
/// `a` points at that word of the first of MR rows, `a_stride` words apart, and `b` at the step's NV vectors.
#[inline(always)]
unsafe fn step<S: Simd, D: Dot, const MR: usize, const NV: usize>(
    s: S,
    acc: &mut [[S::V; NV]; MR],
    a: *const u32,
    a_stride: usize,
    b: *const u32,
) {
    let mut row = [s.splat(0.0); NV];
    for (j, v) in row.iter_mut().enumerate() {
        // SAFETY: the caller's NV vectors.
        *v = unsafe { s.load_all(b.add(j * S::LANES)) };
    }
    for (i, acc) in acc.iter_mut().enumerate() {
        // SAFETY: the caller's MR rows.
        let word = unsafe { s.broadcast(a.add(i * a_stride)) };
        for (acc, v) in acc.iter_mut().zip(row) {
            *acc = D::dot(s, *acc, word, v);
        }
    }
}

/// Multiplies `steps`, at most [`STEPS`], steps of a tile.
///
/// # Safety
/// As [`step`], for each of them.
#[inline(always)]
pub(crate) unsafe fn advance<S: Simd, D: Dot, const MR: usize, const NV: usize>(
    s: S,
    acc: &mut [[S::V; NV]; MR],
    a: *const u32,
    a_stride: usize,
    b: *const u32,
    steps: usize,
) {
    let width = NV * S::LANES;
    if D::QUANTISED && S::SHORT_SUMS {
        let mut sums = [[s.splat(0.0); NV]; MR];
        for k in 0..steps {
            // SAFETY: one of the caller's steps.
            unsafe { step::<S, ShortU8S8, MR, NV>(s, &mut sums, a.add(k), a_stride, b.add(k * width)) };
        }
        for (acc, sums) in acc.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            *acc = s.add_short(*acc, *sums);
        }
    } else {
        for k in 0..steps {
            // SAFETY: one of the caller's steps.
            unsafe { step::<S, D, MR, NV>(s, acc, a.add(k), a_stride, b.add(k * width)) };
        }
    }
}

/// The body of every [`Tile`]: accumulators stay in registers over all of `steps`; each word of `a` is
/// broadcast once and multiplied with a row of `b`.
///
/// # Safety
/// As [`Tile`], for `MR` rows and `NV` vectors a row.
#[inline(always)]
unsafe fn tile<S: Simd, D: Dot, const ADD: bool, const MR: usize, const NV: usize>(
    s: S,
    mut a: *const u32,
    a_stride: usize,
    mut b: *const u32,
    steps: usize,
    sink: &Sink,
) {
    let mut acc = [[s.splat(0.0); NV]; MR];
    let mut left = steps;
    let mut ahead = sink.ahead.from;
    while left >= STEPS {
        for _ in 0..sink.ahead.lines {
            prefetch(ahead);
            ahead = ahead.wrapping_add(MAX_LANES);
        }
        // SAFETY: as many steps are left of a's rows and of b.
        unsafe {
            advance::<S, D, MR, NV>(s, &mut acc, a, a_stride, b, STEPS);
            (a, b) = (a.add(STEPS), b.add(STEPS * NV * S::LANES));
        }
        left -= STEPS;
    }
    // SAFETY: `left` steps are left.
    unsafe { advance::<S, D, MR, NV>(s, &mut acc, a, a_stride, b, left) };
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

/// Takes vector `j` of each of a tile's rows to where it belongs.
///
/// # Safety
/// As [`Tile`], and `j < NV`.
#[inline(always)]
unsafe fn finish<S: Simd, D: Dot, const ADD: bool, const MR: usize, const NV: usize>(
    s: S,
    acc: &[[S::V; NV]; MR],
    j: usize,
    sink: &Sink,
) {
    let column = j * S::LANES;
    // SAFETY: the sink's columns are NV vectors.
    let (y, bias) = unsafe { (sink.y.add(column), s.load_all(sink.bias.add(column).cast())) };
    let (mut scales, mut sums) = (bias, bias);
    if D::QUANTISED {
        // SAFETY: so are these, where sums are quantised.
        unsafe {
            scales = s.load_all(sink.quantised.columns.add(column).cast());
            sums = s.load_all(sink.quantised.sums.add(column).cast());
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let mut v = if D::QUANTISED {
            // SAFETY: the tile has MR rows.
            let RowScale { scale, zero } = unsafe { *sink.quantised.rows.add(i) };
            let integer = s.fma(s.splat(-zero), sums, s.float(acc[j]));
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

/// A [`Tile`] for each `<Dot, ADD, MR, NV>` by the name of `$name`, with the instructions `$features`, which `$token` stands for.
#[cfg(target_arch = "x86_64")]
macro_rules! tile_with {
    ($name:ident, $token:expr, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<D: Dot, const ADD: bool, const MR: usize, const NV: usize>(
            a: *const u32,
            a_stride: usize,
            b: *const u32,
            steps: usize,
            sink: &Sink,
        ) {
            // SAFETY: the caller keeps `Tile`'s contract.
            unsafe { tile::<_, D, ADD, MR, NV>($token, a, a_stride, b, steps, sink) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use tile_with;

/// `&[[Tile; vectors]; rows]` of a generic function `$tile::<Dot, ADD, rows, vectors>`: a constant, since a table that were
/// built on the stack for each tile would cost as much as a few of its steps.
macro_rules! tiles {
    ($tile:ident, $dot:ty, $add:literal, [$($rows:literal)*], $vectors:tt) => {
        const { &[$(crate::simd::tiles!(@row $tile, $dot, $add, $rows, $vectors)),*] }
    };
    (@row $tile:ident, $dot:ty, $add:literal, $rows:literal, [$($vectors:literal)*]) => {
        [$($tile::<$dot, $add, $rows, $vectors> as crate::simd::Tile),*]
    };
}
pub(crate) use tiles;
