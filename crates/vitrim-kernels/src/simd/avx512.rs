//! 16 lanes of AVX-512, with or without its dot products of bf16 and of 8-bit integers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::transmute;

use super::dot::{Bf16Pairs, Int8, ShortInt8};
use super::set::{Vendor, WidenedBf16, define_set};
use super::vector::{DotU8S8, ShortDotU8S8, Vector};

/// A processor with AVX-512 F, BW, DQ and VL; with AVX512_BF16 if `BF16`, with AVX512_VNNI if `VNNI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Avx512<const BF16: bool, const VNNI: bool>(());

define_set! {
    Avx512<false, false> = Avx512::<false, false>(()),
    name: "avx512",
    features: is_x86_feature_detected ["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"],
    preference: |_| 160,
    fastest: Int8,
    bf16: WidenedBf16,
    int8: ShortInt8,
    tiles: [1 2 3 4 5 6 7 8] x [1 2 3],
}

define_set! {
    Avx512<false, true> = Avx512::<false, true>(()),
    name: "avx512+vnni",
    features: is_x86_feature_detected ["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"],
    preference: |_| 161,
    fastest: Int8,
    bf16: WidenedBf16,
    int8: Int8,
    tiles: [1 2 3 4 5 6 7 8] x [1 2 3],
}

define_set! {
    Avx512<true, true> = Avx512::<true, true>(()),
    name: "avx512+bf16+vnni",
    features: is_x86_feature_detected ["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "avx512vnni"],
    preference: |vendor| match vendor {
        // Intel's bf16 dot products are slower than the same work in f32. (timm's DeiT-S, one image on two cores of a
        // fifth-generation Xeon: 11.5 images/s with them, 15.8 in f32; AMX, which these processors also have, is not
        // used.)
        Vendor::Intel => 159,
        Vendor::Other => 162,
    },
    fastest: Bf16,
    bf16: Bf16Pairs,
    int8: Int8,
    tiles: [1 2 3 4 5 6 7 8] x [1 2 3],
}

/// Returns `v`, opaquely to the compiler, which would otherwise reorder integer additions over the steps of a tile
/// until registers run out.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(mut v: __m512i) -> __m512i {
    // SAFETY: the assembly contains no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// An expression of intrinsics on registers alone.
macro_rules! on_registers {
    ($e:expr) => {
        // SAFETY: the token proves that the processor has the instructions, which touch no memory.
        unsafe { $e }
    };
}

/// The first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

impl<const BF16: bool, const VNNI: bool> Avx512<BF16, VNNI> {
    /// The low pairs of lanes of each 128-bit part of `a` and `b`.
    #[inline(always)]
    fn unpacklo(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))))
    }

    /// The high pairs of lanes of each 128-bit part of `a` and `b`.
    #[inline(always)]
    fn unpackhi(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))))
    }

    /// The first 16 values of `x`, each widened to one word; zeros if there are fewer.
    #[inline(always)]
    fn widen(self, x: &[u16]) -> __m512i {
        let halves = if x.len() >= 16 {
            // SAFETY: the length was just checked.
            unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
        } else {
            // SAFETY: masked lanes are not read.
            unsafe { _mm256_maskz_loadu_epi16(first(x.len()), x.as_ptr().cast()) }
        };
        on_registers!(_mm512_cvtepu16_epi32(halves))
    }

    /// The first bf16 of each pair, widened to f32.
    #[inline(always)]
    fn low_bf16(self, v: __m512) -> __m512 {
        on_registers!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v))))
    }

    /// The second bf16 of each pair, widened to f32.
    #[inline(always)]
    fn high_bf16(self, v: __m512) -> __m512 {
        on_registers!({
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), high))
        })
    }
}

impl<const BF16: bool, const VNNI: bool> Vector for Avx512<BF16, VNNI> {
    type V = __m512;
    const LANES: usize = 16;
    const MR: usize = 8;
    const NV: usize = 3;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        on_registers!(_mm512_set1_ps(v))
    }

    #[inline(always)]
    unsafe fn load_all(self, p: *const u32) -> __m512 {
        // SAFETY: the caller has 16 words at p.
        unsafe { _mm512_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const u32, n: usize) -> __m512 {
        // SAFETY: the caller has n words at p; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(first(n), p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_all(self, p: *mut u32, v: __m512) {
        // SAFETY: the caller has 16 words at p.
        unsafe { _mm512_storeu_ps(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut u32, n: usize, v: __m512) {
        // SAFETY: the caller has n words at p; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(p.cast(), first(n), v) }
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u32) -> __m512 {
        // SAFETY: the caller has a word at p.
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(p.cast::<i32>().read())) }
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
        let mut v = [self.splat(0.0); 16];
        for (r, v) in v.iter_mut().enumerate().take(rows) {
            // SAFETY: row r of src holds `columns` words.
            *v = unsafe { self.load_first(src.add(r * stride), columns) };
        }
        on_registers!({
            // Unpack pairs of lanes of two rows, then quads of four, within each 128-bit part.
            let mut w = v;
            for i in (0..16).step_by(2) {
                w[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
                w[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
            }
            for i in (0..16).step_by(4) {
                v[i] = self.unpacklo(w[i], w[i + 2]);
                v[i + 1] = self.unpackhi(w[i], w[i + 2]);
                v[i + 2] = self.unpacklo(w[i + 1], w[i + 3]);
                v[i + 3] = self.unpackhi(w[i + 1], w[i + 3]);
            }
            // v[4 q + c] holds columns c, c + 4, c + 8, c + 12 of rows 4 q ..: gather the parts of the four q.
            for c in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x44>(v[c], v[4 + c]);
                let high = _mm512_shuffle_f32x4::<0xee>(v[c], v[4 + c]);
                let low2 = _mm512_shuffle_f32x4::<0x44>(v[8 + c], v[12 + c]);
                let high2 = _mm512_shuffle_f32x4::<0xee>(v[8 + c], v[12 + c]);
                w[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
                w[4 + c] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
                w[8 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
                w[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
            }
            v = w;
        });
        for (c, v) in v.iter().enumerate().take(columns) {
            // SAFETY: the caller has a register at each column of dst.
            unsafe { self.store_all(dst.add(c * dst_stride), *v) };
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        on_registers!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        on_registers!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, v: __m512) -> __m512 {
        on_registers!(_mm512_abs_ps(v))
    }

    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        on_registers!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
    }

    #[inline(always)]
    fn scale2(self, v: __m512, n: __m512) -> __m512 {
        on_registers!(_mm512_scalef_ps(v, n))
    }

    #[inline(always)]
    fn reduce_sum(self, v: __m512) -> f32 {
        on_registers!(_mm512_reduce_add_ps(v))
    }

    #[inline(always)]
    fn reduce_max(self, v: __m512) -> f32 {
        on_registers!(_mm512_reduce_max_ps(v))
    }

    #[inline(always)]
    fn first(self, n: usize, v: __m512, rest: __m512) -> __m512 {
        on_registers!(_mm512_mask_mov_ps(rest, first(n), v))
    }

    #[inline(always)]
    fn where_larger(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        on_registers!(_mm512_mask_mov_ps(y, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), x))
    }

    #[inline(always)]
    fn equal_lanes(self, a: __m512, b: __m512) -> u32 {
        on_registers!(u32::from(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b)))
    }

    #[inline(always)]
    fn i32_to_f32(self, v: __m512) -> __m512 {
        on_registers!(_mm512_cvtepi32_ps(_mm512_castps_si512(v)))
    }

    #[inline(always)]
    fn dot_bf16(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        if !BF16 {
            let low = self.fma(self.low_bf16(a), self.low_bf16(b), acc);
            return self.fma(self.high_bf16(a), self.high_bf16(b), low);
        }
        on_registers!({
            let (a, b) = (transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b));
            _mm512_dpbf16_ps(acc, a, b)
        })
    }

    #[inline(always)]
    fn interleave_bf16(self, low: &[u16], high: &[u16]) -> __m512 {
        let (low, high) = (self.widen(low), self.widen(high));
        on_registers!(_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high))))
    }

    #[inline(always)]
    fn store_bf16(self, dst: &mut [u16], v: __m512) {
        assert!(dst.len() <= 16, "a register is 16 lanes");
        let half = if BF16 {
            on_registers!(transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)))
        } else {
            let rounded = self.round_bf16(v);
            on_registers!(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(rounded))))
        };
        let n = dst.len();
        let dst = dst.as_mut_ptr();
        // SAFETY: dst holds n values, as many as the mask has bits.
        unsafe {
            if n == 16 {
                _mm256_storeu_si256(dst.cast(), half);
            } else {
                _mm256_mask_storeu_epi16(dst.cast(), first(n), half);
            }
        }
    }

    #[inline(always)]
    fn round_bf16(self, v: __m512) -> __m512 {
        on_registers!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let bf16 = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm512_castsi512_ps(_mm512_and_si512(bf16, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
        })
    }

    #[inline(always)]
    fn store_u8(self, dst: &mut [u8], v: __m512) {
        assert!(dst.len() <= 16, "a register is 16 lanes");
        let v = self.max(v, self.splat(0.0));
        // SAFETY: dst holds as many values as the mask has bits.
        unsafe {
            _mm512_mask_cvtusepi32_storeu_epi8(
                dst.as_mut_ptr().cast(),
                first(dst.len()),
                _mm512_cvtps_epi32(v),
            )
        }
    }
}

impl<const BF16: bool> DotU8S8 for Avx512<BF16, true> {
    #[inline(always)]
    fn dot_u8s8(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        on_registers!({
            let (acc, a, b) = (_mm512_castps_si512(acc), _mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(acc, a, b))
        })
    }
}

impl ShortDotU8S8 for Avx512<false, false> {
    #[inline(always)]
    fn short_dot_u8s8(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        on_registers!({
            let (acc, a, b) = (_mm512_castps_si512(acc), _mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(in_order(_mm512_add_epi16(acc, _mm512_maddubs_epi16(a, b))))
        })
    }

    #[inline(always)]
    fn add_short(self, acc: __m512, sums: __m512) -> __m512 {
        on_registers!({
            let quads = _mm512_madd_epi16(_mm512_castps_si512(sums), _mm512_set1_epi16(1));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(acc), quads))
        })
    }
}
