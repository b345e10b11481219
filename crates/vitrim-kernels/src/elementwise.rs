//! Activations and softmax, in place.

use rten_simd::SimdUnaryOp;
use rten_vecmath::{Erf, Exp, Tanh};

use crate::Level;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Exact GELU `x Phi(x)`, to an absolute error below 5e-7 for `|x| <= 12`.
pub fn gelu(x: &mut [f32]) {
    gelu_at(Level::current(), x);
}

/// [`gelu`] with the instructions of `level`.
///
/// # Panics
/// If the processor lacks the level.
pub fn gelu_at(level: Level, x: &mut [f32]) {
    dispatch(level, GeluSlice(x));
}

struct GeluSlice<'a>(&'a mut [f32]);

impl Kernel for GeluSlice<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            s.store(x, gelu_lanes(s, s.load(x)));
        }
    }
}

/// GELU of a row, stored as `T`.
#[inline(always)]
pub(crate) fn gelu_row<S: Simd, T: Element>(s: S, x: &[f32], y: &mut [T]) {
    for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        T::store(s, y, gelu_lanes(s, s.load(x)));
    }
}

/// SwiGLU of a row `x: [2h]`, in its first half: SiLU of the first half times the second.
#[inline(always)]
pub(crate) fn swiglu_row<S: Simd>(s: S, x: &mut [f32]) -> &[f32] {
    let (gate, up) = x.split_at_mut(x.len() / 2);
    for (gate, up) in gate.chunks_mut(S::LANES).zip(up.chunks(S::LANES)) {
        s.store(gate, s.mul(silu_lanes(s, s.load(gate)), s.load(up)));
    }
    gate
}

/// `x / (1 + e^-x)` as `max(x, 0) - |x| e / (1 + e)` with `e = e^-|x|`, to a relative error below 1e-6. The reciprocal
/// of `1 + e`, which lies between 1 and 2, is a line (to 1/17) and three steps of Newton, each of which squares the
/// error.
#[inline(always)]
fn silu_lanes<S: Simd>(s: S, x: S::V) -> S::V {
    let t = s.abs(x);
    let e = exp2_lanes(s, s.mul(t, s.splat(-std::f32::consts::LOG2_E)));
    let (two, d) = (s.splat(2.0), s.add(s.splat(1.0), e));
    let mut reciprocal = s.fma(d, s.splat(-8.0 / 17.0), s.splat(24.0 / 17.0));
    for _ in 0..3 {
        reciprocal = s.mul(reciprocal, s.sub(two, s.mul(d, reciprocal)));
    }
    s.sub(s.max(s.splat(0.0), x), s.mul(t, s.mul(e, reciprocal)))
}

/// `max(x, 0) - |x| Q(|x|)` with the normal tail `Q(t) = 1 - Phi(t)` as the eighth power of a polynomial: `Q`
/// falls over nine orders of magnitude, its eighth root over one, so eight degrees follow it and three squarings
/// bring it back, without an exponential or a division. The polynomial is minimax for the error of `t Q(t)` on
/// 0..=5.5 (3e-9 before rounding); beyond, `t` counts as 5.5, where `t Q(t)` is 1e-7.
#[inline(always)]
fn gelu_lanes<S: Simd>(s: S, x: S::V) -> S::V {
    const ROOT: [f32; 9] = [
        0.917_004,
        -0.091_457_41,
        -0.031_928_077,
        -0.000_671_954_6,
        0.001_504_361_2,
        3.429_583e-5,
        -6.025_792_4e-5,
        7.479_606_7e-6,
        -2.958_859_4e-7,
    ];
    let t = s.min(s.splat(5.5), s.abs(x));
    let root = polynomial(s, t, &ROOT);
    let square = s.mul(root, root);
    let fourth = s.mul(square, square);
    let tail = s.mul(fourth, fourth);
    s.sub(s.max(s.splat(0.0), x), s.mul(t, tail))
}

/// `2^x` for `x <= 0`, to a relative error below 2e-7; 2^-126 below -126.
#[inline(always)]
fn exp2_lanes<S: Simd>(s: S, x: S::V) -> S::V {
    /// Minimax on -0.5..=0.5; the second is near ln 2, but not it.
    #[expect(clippy::approx_constant, reason = "a fit's coefficient")]
    const POWER: [f32; 6] = [1.0, 0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];
    let x = s.max(s.splat(-126.0), x);
    let n = s.round(x);
    s.scale2(polynomial(s, s.sub(x, n), &POWER), n)
}

/// `c[0] + c[1] x + ..`.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, c: &[f32; N]) -> S::V {
    let mut value = s.splat(c[N - 1]);
    for c in c[..N - 1].iter().rev() {
        value = s.fma(value, x, s.splat(*c));
    }
    value
}

/// GELU as a straight line in each `x`: `slope x + offset` is GELU's value there (to 5e-6 for `|x| <= 12`), and
/// `slope` its derivative `Phi(x) + x phi(x)`; `offset` is `-x^2 phi(x)`.
///
/// # Panics
/// If the slices differ in length.
pub fn gelu_tangent(x: &[f32], slope: &mut [f32], offset: &mut [f32]) {
    assert!(x.len() == slope.len() && x.len() == offset.len(), "slices of one length");
    /// What stays in the L1 cache.
    const CHUNK: usize = 1024;
    let chunks = x.chunks(CHUNK).zip(slope.chunks_mut(CHUNK)).zip(offset.chunks_mut(CHUNK));
    for ((x, slope), offset) in chunks {
        for ((x, slope), offset) in x.iter().zip(&mut *slope).zip(&mut *offset) {
            *slope = x * std::f32::consts::FRAC_1_SQRT_2;
            *offset = -0.5 * x * x;
        }
        Erf {}.map_mut(&mut *slope);
        Exp {}.map_mut(&mut *offset);
        for ((x, slope), offset) in x.iter().zip(slope).zip(offset) {
            // 1 / sqrt(2 pi)
            let density = 0.398_942_3 * *offset;
            *slope = 0.5 + 0.5 * *slope + x * density;
            *offset = -x * x * density;
        }
    }
}

/// Hyperbolic tangent.
pub fn tanh(x: &mut [f32]) {
    Tanh {}.map_mut(x);
}

/// Softmax over the whole slice, shifted by its maximum. An empty slice stays empty.
pub fn softmax(x: &mut [f32]) {
    softmax_at(Level::current(), x);
}

/// [`softmax`] with the instructions of `level`.
///
/// # Panics
/// If the processor lacks the level.
pub fn softmax_at(level: Level, x: &mut [f32]) {
    dispatch(level, SoftmaxSlice(x));
}

struct SoftmaxSlice<'a>(&'a mut [f32]);

impl Kernel for SoftmaxSlice<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let greatest = greatest_of(s, self.0);
        let scale = s.splat(exp_row(s, self.0, greatest, 1.0).recip());
        for x in self.0.chunks_mut(S::LANES) {
            s.store(x, s.mul(s.load(x), scale));
        }
    }
}

/// `x` becomes `exp(scale (x - greatest))` for `scale > 0`; returns the sum.
#[inline(always)]
pub(crate) fn exp_row<S: Simd>(s: S, x: &mut [f32], greatest: f32, scale: f32) -> f32 {
    // e^x = 2^(x log2 e)
    let scale = s.splat(scale * std::f32::consts::LOG2_E);
    let shift = s.splat(greatest);
    let mut sum = s.splat(0.0);
    for x in x.chunks_mut(S::LANES) {
        let v = exp2_lanes(s, s.mul(s.sub(s.load(x), shift), scale));
        s.store(x, v);
        sum = s.add(sum, if x.len() < S::LANES { s.first(x.len(), v, s.splat(0.0)) } else { v });
    }
    s.sum(sum)
}

/// The greatest value; negative infinity where there is none.
#[inline(always)]
pub(crate) fn greatest_of<S: Simd>(s: S, x: &[f32]) -> f32 {
    let least = s.splat(f32::NEG_INFINITY);
    let mut greatest = least;
    for x in x.chunks(S::LANES) {
        let v = s.load(x);
        greatest = s.max(greatest, if x.len() < S::LANES { s.first(x.len(), v, least) } else { v });
    }
    s.greatest(greatest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    proptest! {
        #[test]
        fn equal_the_references(x in proptest::collection::vec(-12f32..12.0, 0..70)) {
            let mut y = x.clone();
            for level in Level::supported() {
                y.clone_from(&x);
                gelu_at(level, &mut y);
                prop_assert!(reference::max_difference(&y, &reference::gelu(&x)) < 5e-7);
                y.clone_from(&x);
                softmax_at(level, &mut y);
                prop_assert!(reference::max_difference(&y, &reference::softmax(&x)) < 3e-7);
            }
            y.clone_from(&x);
            tanh(&mut y);
            let expected: Vec<f32> = x.iter().map(|v| v.tanh()).collect();
            prop_assert!(reference::max_difference(&y, &expected) < 1e-6);
        }

        #[test]
        fn the_tangent_touches_gelu(x in proptest::collection::vec(-12f32..12.0, 0..2100)) {
            let (mut slope, mut offset) = (x.clone(), x.clone());
            gelu_tangent(&x, &mut slope, &mut offset);
            let value: Vec<f32> = x.iter().zip(&slope).zip(&offset).map(|((x, s), o)| s * x + o).collect();
            prop_assert!(reference::max_difference(&value, &reference::gelu(&x)) < 5e-6);
            let moved = |step: f32| reference::gelu(&x.iter().map(|x| x + step).collect::<Vec<_>>());
            let (above, below) = (moved(0.01), moved(-0.01));
            let steep: Vec<f32> = above.iter().zip(&below).map(|(a, b)| (a - b) / 0.02).collect();
            prop_assert!(slope.iter().zip(&steep).all(|(s, t)| (s - t).abs() < 1e-3));
        }
    }
}
