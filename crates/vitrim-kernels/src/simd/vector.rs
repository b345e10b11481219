//! One register of f32 or 32-bit words, and the operations on it that every instruction set has.

/// Operations on registers. A value proves that the processor has the instructions.
pub(crate) trait Vector: Copy {
    /// A register of [`Vector::LANES`] f32, or of as many 32-bit words.
    type V: Copy;
    /// Lanes per register.
    const LANES: usize;
    /// Rows of the largest f32 tile whose accumulators fit into registers.
    const MR: usize;
    /// Vectors per row of the largest tile.
    const NV: usize;

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
    /// `rows` and `columns` are at most [`Vector::LANES`]; `src` holds `rows` readable rows of `columns` words,
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
    /// The larger of `a` and `b`; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of `a` and `b`; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, v: Self::V) -> Self::V;
    /// Rounds to the nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v 2^n` for integers `n` in -126..=127 and `v` in 0.5..2.
    fn scale2(self, v: Self::V, n: Self::V) -> Self::V;
    /// The sum of all lanes.
    fn reduce_sum(self, v: Self::V) -> f32;
    /// The maximum of all lanes.
    fn reduce_max(self, v: Self::V) -> f32;
    /// The first `n <= LANES` lanes of `v`, the other lanes of `rest`.
    fn first(self, n: usize, v: Self::V, rest: Self::V) -> Self::V;
    /// `x` in the lanes in which `a > b`, `y` in the others.
    fn where_larger(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// A bit for each lane, the first lowest: whether `a` and `b` are equal there.
    fn equal_lanes(self, a: Self::V, b: Self::V) -> u32;

    /// i32 to f32, to nearest even.
    fn i32_to_f32(self, v: Self::V) -> Self::V;
    /// Rounds the first `dst.len() <= LANES` lanes, integers or not, to nearest even and clamps to 0..=255.
    fn store_u8(self, dst: &mut [u8], v: Self::V);

    /// `acc + a0 b0 + a1 b1` of two bf16 per lane.
    fn dot_bf16(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Words of two bf16: the first `LANES` values of `low` in the low halves, and of `high` in the high halves;
    /// zeros if there are fewer.
    fn interleave_bf16(self, low: &[u16], high: &[u16]) -> Self::V;
    /// Rounds the first `dst.len() <= LANES` lanes to bf16, to nearest even.
    fn store_bf16(self, dst: &mut [u16], v: Self::V);
    /// Rounds to bf16, to nearest even, and back to f32.
    fn round_bf16(self, v: Self::V) -> Self::V;

    /// The first `min(LANES, x.len())` values; the other lanes are zero.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        if x.len() >= Self::LANES {
            // SAFETY: the length was just checked, and every f32 is a word.
            unsafe { self.load_all(x.as_ptr().cast()) }
        } else {
            // SAFETY: `x` holds as many words.
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
            // SAFETY: `x` holds as many words.
            unsafe { self.store_first(x.as_mut_ptr().cast(), x.len(), v) }
        }
    }
}

/// Instructions that add products of 8-bit integers in 32 bits (VNNI).
pub(crate) trait DotU8S8: Vector {
    /// `acc + a0 b0 + .. + a3 b3` of four integers per lane, `a` unsigned, `b` signed, in i32.
    fn dot_u8s8(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
}

/// Instructions that add products of 8-bit integers in 16 bits (`maddubs`).
pub(crate) trait ShortDotU8S8: Vector {
    /// `acc + a0 b0 + a1 b1` in the low i16 of each lane, `acc + a2 b2 + a3 b3` in the high one. Neither may
    /// overflow.
    fn short_dot_u8s8(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `acc` plus the two i16 of each lane of `sums`, in i32.
    fn add_short(self, acc: Self::V, sums: Self::V) -> Self::V;
}
