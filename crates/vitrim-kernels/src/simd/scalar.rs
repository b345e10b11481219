//! Portable lanes: arrays in plain loops, which the compiler vectorises for the target.

use super::dot::{Bf16Pairs, Int8};
use super::set::define_set;
use super::vector::{DotU8S8, Vector};

const LANES: usize = 8;

/// Eight f32 in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scalar(());

#[inline(always)]
fn map<const N: usize>(f: impl Fn(usize) -> f32) -> [f32; N] {
    let mut v = [0.0; N];
    for (i, v) in v.iter_mut().enumerate() {
        *v = f(i);
    }
    v
}

/// `a b + c`, with one rounding only if the target has an instruction for it.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// bf16 of `v`, to nearest even; NaN stays NaN.
#[inline(always)]
fn bf16(v: f32) -> u32 {
    let bits = v.to_bits();
    if v.is_nan() { (bits >> 16) | 0x40 } else { (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 }
}

define_set! {
    Scalar = Scalar(()),
    name: "scalar",
    features: is_x86_feature_detected [],
    // The last resort.
    preference: |_| 0,
    fastest: F32,
    bf16: Bf16Pairs,
    int8: Int8,
    tiles: [1 2 3 4 5 6] x [1],
}

impl Vector for Scalar {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const MR: usize = 6;
    const NV: usize = 1;

    #[inline(always)]
    fn splat(self, v: f32) -> Self::V {
        [v; LANES]
    }

    #[inline(always)]
    unsafe fn load_all(self, p: *const u32) -> Self::V {
        // SAFETY: the caller has LANES words at p.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const u32, n: usize) -> Self::V {
        let mut v = [0.0; LANES];
        // SAFETY: the caller has n <= LANES words at p.
        unsafe { p.cast::<f32>().copy_to_nonoverlapping(v.as_mut_ptr(), n) };
        v
    }

    #[inline(always)]
    unsafe fn store_all(self, p: *mut u32, v: Self::V) {
        // SAFETY: the caller has LANES words at p.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut u32, n: usize, v: Self::V) {
        // SAFETY: the caller has n <= LANES words at p.
        unsafe { p.cast::<f32>().copy_from_nonoverlapping(v.as_ptr(), n) };
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u32) -> Self::V {
        // SAFETY: the caller has a word at p.
        [f32::from_bits(unsafe { p.read() }); LANES]
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
        for c in 0..columns {
            for r in 0..LANES {
                // SAFETY: the caller's rows and columns exist, and there is a register at each column of dst.
                unsafe {
                    let word = if r < rows { src.add(r * stride + c).read() } else { 0 };
                    dst.add(c * dst_stride + r).write(word);
                }
            }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        map(|i| fma(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn abs(self, v: Self::V) -> Self::V {
        map(|i| v[i].abs())
    }

    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        map(|i| v[i].round_ties_even())
    }

    #[inline(always)]
    fn scale2(self, v: Self::V, n: Self::V) -> Self::V {
        map(|i| f32::from_bits(v[i].to_bits().wrapping_add((n[i] as i32 as u32) << 23)))
    }

    #[inline(always)]
    fn reduce_sum(self, v: Self::V) -> f32 {
        v.iter().sum()
    }

    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        v.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v))
    }

    #[inline(always)]
    fn dot_bf16(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V {
        let low = |v: f32| f32::from_bits(v.to_bits() << 16);
        let high = |v: f32| f32::from_bits(v.to_bits() & 0xffff_0000);
        map(|i| fma(high(a[i]), high(b[i]), fma(low(a[i]), low(b[i]), acc[i])))
    }

    #[inline(always)]
    fn first(self, n: usize, v: Self::V, rest: Self::V) -> Self::V {
        map(|i| if i < n { v[i] } else { rest[i] })
    }

    #[inline(always)]
    fn where_larger(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        map(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn equal_lanes(self, a: Self::V, b: Self::V) -> u32 {
        a.iter().zip(&b).enumerate().fold(0, |bits, (i, (a, b))| bits | (u32::from(a == b) << i))
    }

    #[inline(always)]
    fn i32_to_f32(self, v: Self::V) -> Self::V {
        map(|i| v[i].to_bits() as i32 as f32)
    }

    #[inline(always)]
    fn interleave_bf16(self, low: &[u16], high: &[u16]) -> Self::V {
        let half = |x: &[u16], i: usize| u32::from(x.get(i).copied().unwrap_or(0));
        map(|i| f32::from_bits(half(low, i) | half(high, i) << 16))
    }

    #[inline(always)]
    fn store_bf16(self, dst: &mut [u16], v: Self::V) {
        dst.iter_mut().zip(v).for_each(|(d, v)| *d = bf16(v) as u16);
    }

    #[inline(always)]
    fn store_u8(self, dst: &mut [u8], v: Self::V) {
        dst.iter_mut().zip(v).for_each(|(d, v)| *d = v.round_ties_even() as u8);
    }

    #[inline(always)]
    fn round_bf16(self, v: Self::V) -> Self::V {
        map(|i| f32::from_bits(bf16(v[i]) << 16))
    }
}

impl DotU8S8 for Scalar {
    #[inline(always)]
    fn dot_u8s8(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V {
        map(|i| {
            let (a, b) = (a[i].to_bits(), b[i].to_bits());
            let product = |q: u32| ((a >> (8 * q)) & 0xff) as i32 * i32::from((b >> (8 * q)) as u8 as i8);
            let sum = acc[i].to_bits() as i32 + product(0) + product(1) + product(2) + product(3);
            f32::from_bits(sum as u32)
        })
    }
}
