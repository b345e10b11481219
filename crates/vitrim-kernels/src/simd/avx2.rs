//! 8 lanes of AVX2 with FMA, with or without dot products of 8-bit integers.

use std::arch::asm;
use std::arch::x86_64::*;

use super::dot::{Int8, ShortInt8};
use super::set::{WidenedBf16, define_set};
use super::vector::{DotU8S8, ShortDotU8S8, Vector};

/// A processor with AVX2 and FMA; with AVX-VNNI if `VNNI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Avx2<const VNNI: bool>(());

define_set! {
    Avx2<false> = Avx2::<false>(()),
    name: "avx2",
    features: is_x86_feature_detected ["avx2", "fma"],
    preference: |_| 80,
    fastest: Int8,
    bf16: WidenedBf16,
    int8: ShortInt8,
    tiles: [1 2 3 4 5 6] x [1 2],
}

// Intel's laptop and desktop processors since Alder Lake.
define_set! {
    Avx2<true> = Avx2::<true>(()),
    name: "avx2+vnni",
    features: is_x86_feature_detected ["avx2", "fma", "avxvnni"],
    preference: |_| 81,
    fastest: Int8,
    bf16: WidenedBf16,
    int8: Int8,
    tiles: [1 2 3 4 5 6] x [1 2],
}

/// Returns `v`, opaquely to the compiler, which would otherwise reorder integer additions over the steps of a tile
/// until registers run out.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(mut v: __m256i) -> __m256i {
    // SAFETY: the assembly contains no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// An expression of intrinsics on registers alone.
macro_rules! on_registers {
    ($e:expr) => {
        // SAFETY: the token proves that the processor has the instructions, which touch no memory.
        unsafe { $e }
    };
}

impl<const VNNI: bool> Avx2<VNNI> {
    /// All bits of the first `n` lanes.
    #[inline(always)]
    fn mask(self, n: usize) -> __m256i {
        on_registers!({
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
        })
    }

    /// The first 8 values of `x`, each widened to one word; zeros if there are fewer.
    #[inline(always)]
    fn widen(self, x: &[u16]) -> __m256i {
        let mut lanes = [0; 8];
        let n = x.len().min(8);
        lanes[..n].copy_from_slice(&x[..n]);
        // SAFETY: `lanes` holds one 128-bit register, and the token proves that the processor has the instructions.
        unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(lanes.as_ptr().cast())) }
    }

    /// The first bf16 of each pair, widened to f32.
    #[inline(always)]
    fn low_bf16(self, v: __m256) -> __m256 {
        on_registers!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v))))
    }

    /// The second bf16 of each pair, widened to f32.
    #[inline(always)]
    fn high_bf16(self, v: __m256) -> __m256 {
        on_registers!({
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(v), high))
        })
    }
}

impl<const VNNI: bool> Vector for Avx2<VNNI> {
    type V = __m256;
    const LANES: usize = 8;
    const MR: usize = 6;
    const NV: usize = 2;

    #[inline(always)]
    fn splat(self, v: f32) -> __m256 {
        on_registers!(_mm256_set1_ps(v))
    }

    #[inline(always)]
    unsafe fn load_all(self, p: *const u32) -> __m256 {
        // SAFETY: the caller has 8 words at p.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const u32, n: usize) -> __m256 {
        // SAFETY: the caller has n words at p; masked lanes are not read.
        unsafe { _mm256_maskload_ps(p.cast(), self.mask(n)) }
    }

    #[inline(always)]
    unsafe fn store_all(self, p: *mut u32, v: __m256) {
        // SAFETY: the caller has 8 words at p.
        unsafe { _mm256_storeu_ps(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut u32, n: usize, v: __m256) {
        // SAFETY: the caller has n words at p; masked lanes are not written.
        unsafe { _mm256_maskstore_ps(p.cast(), self.mask(n), v) }
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u32) -> __m256 {
        // SAFETY: the caller has a word at p.
        unsafe { _mm256_broadcast_ss(&*p.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        src: *const u32,
        stride: usize,
        rows: usize,
        columns: usize,
        dst: *mut u32,
        dst_stride: usize,
    ) {
        let mut v = [self.splat(0.0); 8];
        if rows == 8 && columns == 8 {
            for (r, v) in v.iter_mut().enumerate() {
                // SAFETY: row r of src holds a register.
                *v = unsafe { self.load_all(src.add(r * stride)) };
            }
        } else {
            for (r, v) in v.iter_mut().enumerate().take(rows) {
                // SAFETY: row r of src holds `columns` words.
                *v = unsafe { self.load_first(src.add(r * stride), columns) };
            }
        }
        on_registers!({
            // Unpack pairs of lanes of two rows, then quads of four, within each 128-bit part; then exchange the
            // parts.
            let mut w = v;
            for i in (0..8).step_by(2) {
                w[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
                w[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
            }
            for i in (0..8).step_by(4) {
                v[i] = _mm256_shuffle_ps::<0x44>(w[i], w[i + 2]);
                v[i + 1] = _mm256_shuffle_ps::<0xee>(w[i], w[i + 2]);
                v[i + 2] = _mm256_shuffle_ps::<0x44>(w[i + 1], w[i + 3]);
                v[i + 3] = _mm256_shuffle_ps::<0xee>(w[i + 1], w[i + 3]);
            }
            for c in 0..4 {
                w[c] = _mm256_permute2f128_ps::<0x20>(v[c], v[4 + c]);
                w[4 + c] = _mm256_permute2f128_ps::<0x31>(v[c], v[4 + c]);
            }
            v = w;
        });
        for (c, v) in v.iter().enumerate().take(columns) {
            // SAFETY: the caller has a register at each column of dst.
            unsafe { self.store_all(dst.add(c * dst_stride), *v) };
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        on_registers!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        on_registers!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        on_registers!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        on_registers!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        on_registers!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        on_registers!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, v: __m256) -> __m256 {
        on_registers!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), v))
    }

    #[inline(always)]
    fn round(self, v: __m256) -> __m256 {
        on_registers!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
    }

    #[inline(always)]
    fn scale2(self, v: __m256, n: __m256) -> __m256 {
        on_registers!({
            let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), exponent))
        })
    }

    #[inline(always)]
    fn reduce_sum(self, v: __m256) -> f32 {
        on_registers!({
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        })
    }

    #[inline(always)]
    fn reduce_max(self, v: __m256) -> f32 {
        on_registers!({
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        })
    }

    #[inline(always)]
    fn first(self, n: usize, v: __m256, rest: __m256) -> __m256 {
        on_registers!(_mm256_blendv_ps(rest, v, _mm256_castsi256_ps(self.mask(n))))
    }

    #[inline(always)]
    fn where_larger(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        on_registers!(_mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)))
    }

    #[inline(always)]
    fn equal_lanes(self, a: __m256, b: __m256) -> u32 {
        on_registers!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b)) as u32)
    }

    #[inline(always)]
    fn i32_to_f32(self, v: __m256) -> __m256 {
        on_registers!(_mm256_cvtepi32_ps(_mm256_castps_si256(v)))
    }

    #[inline(always)]
    fn dot_bf16(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
        let low = self.fma(self.low_bf16(a), self.low_bf16(b), acc);
        self.fma(self.high_bf16(a), self.high_bf16(b), low)
    }

    #[inline(always)]
    fn interleave_bf16(self, low: &[u16], high: &[u16]) -> __m256 {
        let (low, high) = (self.widen(low), self.widen(high));
        on_registers!(_mm256_castsi256_ps(_mm256_or_si256(low, _mm256_slli_epi32::<16>(high))))
    }

    #[inline(always)]
    fn store_bf16(self, dst: &mut [u16], v: __m256) {
        let mut lanes = [0u16; 8];
        let rounded = self.round_bf16(v);
        // SAFETY: `lanes` holds one 128-bit register, and the token proves that the processor has the instructions.
        unsafe {
            let words = _mm256_srli_epi32::<16>(_mm256_castps_si256(rounded));
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(lanes.as_mut_ptr().cast(), _mm_packus_epi32(low, high));
        }
        match <&mut [u16; 8]>::try_from(&mut *dst) {
            Ok(dst) => *dst = lanes,
            Err(_) => dst.copy_from_slice(&lanes[..dst.len()]),
        }
    }

    #[inline(always)]
    fn round_bf16(self, v: __m256) -> __m256 {
        on_registers!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let bf16 = _mm256_blendv_epi8(rounded, quiet, nan);
            _mm256_castsi256_ps(_mm256_and_si256(bf16, _mm256_set1_epi32(0xffff_0000_u32 as i32)))
        })
    }

    #[inline(always)]
    fn store_u8(self, dst: &mut [u8], v: __m256) {
        let mut lanes = [0u8; 16];
        // SAFETY: `lanes` holds one 128-bit register.
        unsafe {
            let words = _mm256_cvtps_epi32(v);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let halves = _mm_packs_epi32(low, high);
            _mm_storeu_si128(lanes.as_mut_ptr().cast(), _mm_packus_epi16(halves, halves));
        }
        match <&mut [u8; 8]>::try_from(&mut *dst) {
            Ok(dst) => dst.copy_from_slice(&lanes[..8]),
            Err(_) => dst.copy_from_slice(&lanes[..dst.len()]),
        }
    }
}

impl DotU8S8 for Avx2<true> {
    #[inline(always)]
    fn dot_u8s8(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
        on_registers!({
            let (acc, a, b) = (_mm256_castps_si256(acc), _mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(acc, a, b))
        })
    }
}

impl ShortDotU8S8 for Avx2<false> {
    #[inline(always)]
    fn short_dot_u8s8(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
        on_registers!({
            let (acc, a, b) = (_mm256_castps_si256(acc), _mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(in_order(_mm256_add_epi16(acc, _mm256_maddubs_epi16(a, b))))
        })
    }

    #[inline(always)]
    fn add_short(self, acc: __m256, sums: __m256) -> __m256 {
        on_registers!({
            let quads = _mm256_madd_epi16(_mm256_castps_si256(sums), _mm256_set1_epi16(1));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(acc), quads))
        })
    }
}
