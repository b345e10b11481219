//! Activations and softmax, in place.

use std::marker::PhantomData;

use rten_simd::SimdUnaryOp;
use rten_vecmath::Tanh;

use crate::InstructionSet;
use crate::simd::vector::Vector;
use crate::simd::{Kernel, Map, Simd};

/// A function that is applied to each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU, `x Phi(x)`.
    Gelu,
    /// GELU in its tanh approximation: `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel, 2016).
    GeluTanh,
    /// `x / (1 + e^(-1.702 x))`, as in OpenAI's CLIP.
    QuickGelu,
    /// `x / (1 + e^-x)`.
    Silu,
}

impl Activation {
    /// All activations.
    pub const ALL: [Activation; 4] =
        [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu];
}

impl InstructionSet {
    /// `activation` of each value of `x`, to an absolute error below 2e-6 for `|x| <= 12`.
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        match activation {
            Activation::Gelu => self.gelu(x),
            Activation::GeluTanh => self.run(MapSlice::<GeluTanh>(x, PhantomData)),
            Activation::QuickGelu => self.run(MapSlice::<QuickGelu>(x, PhantomData)),
            Activation::Silu => self.run(MapSlice::<Silu>(x, PhantomData)),
        }
    }

    /// `activation` of the first half of each row of `x: [rows, width]`, times the second half, written to
    /// `y: [rows, width / 2]` (SwiGLU with SiLU, GEGLU with GELU).
    ///
    /// # Panics
    /// If `width` is odd, or a length does not match.
    pub fn gate(self, activation: Activation, x: &mut [f32], y: &mut [f32], width: usize) {
        assert!(width.is_multiple_of(2) && x.len() == 2 * y.len(), "x is [rows, width], y is half as wide");
        self.run(GateRows { activation, x, y, width });
    }

    /// Exact GELU `x Phi(x)`, to an absolute error below 5e-7 for `|x| <= 12`.
    pub fn gelu(self, x: &mut [f32]) {
        self.run(GeluSlice(x));
    }

    /// Writes GELU of `x` to `y`, as in [`InstructionSet::gelu`], and its derivative `Phi(x) + x phi(x)` to `slope`,
    /// to an absolute error below 2e-6.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn gelu_and_slope(self, x: &[f32], y: &mut [f32], slope: &mut [f32]) {
        assert!(x.len() == y.len() && x.len() == slope.len(), "slices of one length");
        self.run(GeluAndSlope { x, y, slope });
    }

    /// Softmax over each row of `x: [rows, width]`, shifted by the row's maximum.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows.
    pub fn softmax(self, x: &mut [f32], width: usize) {
        assert!(width > 0 && x.len().is_multiple_of(width), "x is [rows, width]");
        self.run(SoftmaxRows { x, width });
    }

    /// The gradient of [`InstructionSet::softmax`]. `y: [rows, width]` is the softmax; `gradient: [rows, width]` is
    /// the gradient with respect to `y`, and becomes the gradient with respect to the input,
    /// `y (gradient - sum(y gradient))`.
    ///
    /// # Panics
    /// If the two differ in length, or do not consist of whole rows.
    pub fn softmax_backward(self, y: &[f32], gradient: &mut [f32], width: usize) {
        assert!(width > 0 && y.len().is_multiple_of(width), "y is [rows, width]");
        assert_eq!(y.len(), gradient.len(), "a gradient of each value");
        self.run(SoftmaxBackward { y, gradient, width });
    }
}

/// Replaces each value of the slice by `M` of it.
struct MapSlice<'a, M>(&'a mut [f32], PhantomData<M>);

impl<M: Map> Kernel for MapSlice<'_, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            s.store(x, M::map(s, s.load(x)));
        }
    }
}

struct GateRows<'a> {
    activation: Activation,
    x: &'a mut [f32],
    y: &'a mut [f32],
    width: usize,
}

impl Kernel for GateRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact_mut(self.width).zip(self.y.chunks_exact_mut(self.width / 2));
        rows.for_each(|(x, y)| y.copy_from_slice(gated_row(s, self.activation, x)));
    }
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

/// [`InstructionSet::gelu`], lane by lane.
pub(crate) struct Gelu;

impl Map for Gelu {
    #[inline(always)]
    fn map<S: Vector>(s: S, v: S::V) -> S::V {
        gelu_lanes(s, v)
    }
}

/// The tanh approximation of GELU, lane by lane: `x sigmoid(z)` with `z = 2 sqrt(2 / pi) (x + 0.044715 x^3)`, since
/// `(1 + tanh(u)) / 2 = sigmoid(2 u)`.
pub(crate) struct GeluTanh;

impl Map for GeluTanh {
    #[inline(always)]
    fn map<S: Vector>(s: S, v: S::V) -> S::V {
        /// 2 sqrt(2 / pi).
        const SLOPE: f32 = 1.595_769_2;
        let t = s.abs(v);
        let z = s.mul(t, s.fma(s.mul(t, t), s.splat(0.044_715 * SLOPE), s.splat(SLOPE)));
        times_sigmoid_lanes(s, v, t, z)
    }
}

/// `x sigmoid(1.702 x)`, lane by lane.
pub(crate) struct QuickGelu;

impl Map for QuickGelu {
    #[inline(always)]
    fn map<S: Vector>(s: S, v: S::V) -> S::V {
        let t = s.abs(v);
        times_sigmoid_lanes(s, v, t, s.mul(t, s.splat(1.702)))
    }
}

/// `x sigmoid(x)`, lane by lane.
pub(crate) struct Silu;

impl Map for Silu {
    #[inline(always)]
    fn map<S: Vector>(s: S, v: S::V) -> S::V {
        silu_lanes(s, v)
    }
}

/// `activation` of the first half of a row `x: [2h]`, times the second half, written to the first half.
#[inline(always)]
pub(crate) fn gated_row<S: Vector>(s: S, activation: Activation, x: &mut [f32]) -> &[f32] {
    match activation {
        Activation::Gelu => gated_row_of::<S, Gelu>(s, x),
        Activation::GeluTanh => gated_row_of::<S, GeluTanh>(s, x),
        Activation::QuickGelu => gated_row_of::<S, QuickGelu>(s, x),
        Activation::Silu => gated_row_of::<S, Silu>(s, x),
    }
}

#[inline(always)]
fn gated_row_of<S: Vector, M: Map>(s: S, x: &mut [f32]) -> &[f32] {
    let (gate, up) = x.split_at_mut(x.len() / 2);
    for (gate, up) in gate.chunks_mut(S::LANES).zip(up.chunks(S::LANES)) {
        s.store(gate, s.mul(M::map(s, s.load(gate)), s.load(up)));
    }
    gate
}

/// `x / (1 + e^-x)`, to a relative error below 1e-6.
#[inline(always)]
fn silu_lanes<S: Vector>(s: S, x: S::V) -> S::V {
    let t = s.abs(x);
    times_sigmoid_lanes(s, x, t, t)
}

/// `x sigmoid(z)` for a `z` of the sign of `x`, given `t = |x|` and `|z|`: `max(x, 0) - |x| e / (1 + e)` with
/// `e = e^-|z|`. `1 + e` lies between 1 and 2; its reciprocal is a linear approximation (error 1/17) and three Newton
/// steps, each of which squares the error.
#[inline(always)]
fn times_sigmoid_lanes<S: Vector>(s: S, x: S::V, t: S::V, z: S::V) -> S::V {
    let e = exp2_lanes(s, s.mul(z, s.splat(-std::f32::consts::LOG2_E)));
    let (two, d) = (s.splat(2.0), s.add(s.splat(1.0), e));
    let mut reciprocal = s.fma(d, s.splat(-8.0 / 17.0), s.splat(24.0 / 17.0));
    for _ in 0..3 {
        reciprocal = s.mul(reciprocal, s.sub(two, s.mul(d, reciprocal)));
    }
    s.sub(s.max(s.splat(0.0), x), s.mul(t, s.mul(e, reciprocal)))
}

/// `max(x, 0) - |x| Q(|x|)` with the normal tail `Q(t) = 1 - Phi(t)`.
#[inline(always)]
fn gelu_lanes<S: Vector>(s: S, x: S::V) -> S::V {
    let (t, tail) = tail_lanes(s, x);
    s.sub(s.max(s.splat(0.0), x), s.mul(t, tail))
}

/// `t = |x|`, at most 5.5, and the normal tail `Q(t)` as the eighth power of a polynomial. `Q` falls over nine orders
/// of magnitude, its eighth root over one: a polynomial of degree eight approximates the root, and three squarings
/// give `Q`, without an exponential or a division. The polynomial is minimax for the error of `t Q(t)` on 0..=5.5
/// (3e-9 before rounding); at 5.5, `t Q(t)` is 1e-7.
#[inline(always)]
fn tail_lanes<S: Vector>(s: S, x: S::V) -> (S::V, S::V) {
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
    (t, s.mul(fourth, fourth))
}

/// `2^x` for `x <= 0`, to a relative error below 2e-7; 2^-126 below -126.
#[inline(always)]
fn exp2_lanes<S: Vector>(s: S, x: S::V) -> S::V {
    /// Minimax on -0.5..=0.5; the second coefficient is near ln 2, but not equal to it.
    #[expect(clippy::approx_constant, reason = "a fit's coefficient")]
    const POWER: [f32; 6] = [1.0, 0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];
    let x = s.max(s.splat(-126.0), x);
    let n = s.round(x);
    s.scale2(polynomial(s, s.sub(x, n), &POWER), n)
}

/// `c[0] + c[1] x + ..`.
#[inline(always)]
fn polynomial<S: Vector, const N: usize>(s: S, x: S::V, c: &[f32; N]) -> S::V {
    let mut value = s.splat(c[N - 1]);
    for c in c[..N - 1].iter().rev() {
        value = s.fma(value, x, s.splat(*c));
    }
    value
}

struct GeluAndSlope<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    slope: &'a mut [f32],
}

impl Kernel for GeluAndSlope<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// 1 / sqrt(2 pi).
        const DENSITY: f32 = 0.398_942_3;
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        let rows = self.x.chunks(S::LANES).zip(self.y.chunks_mut(S::LANES));
        for ((x, y), slope) in rows.zip(self.slope.chunks_mut(S::LANES)) {
            let x = s.load(x);
            let (t, tail) = tail_lanes(s, x);
            s.store(y, s.sub(s.max(zero, x), s.mul(t, tail)));
            // Phi(x) is Q(t) for negative x, and 1 - Q(t) for positive x. Near 0 both are 1/2, so that any step
            // between 0 and 1 is right.
            let step = s.min(one, s.max(zero, s.mul(x, s.splat(1e30))));
            let phi = s.mul(x, s.mul(x, s.splat(-0.5 * std::f32::consts::LOG2_E)));
            let density = s.mul(s.splat(DENSITY), exp2_lanes(s, phi));
            let cumulative = s.fma(step, s.fma(tail, s.splat(-2.0), one), tail);
            s.store(slope, s.fma(x, density, cumulative));
        }
    }
}

/// Hyperbolic tangent.
pub fn tanh(x: &mut [f32]) {
    Tanh {}.map_mut(x);
}

struct SoftmaxRows<'a> {
    x: &'a mut [f32],
    width: usize,
}

impl Kernel for SoftmaxRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.x.chunks_exact_mut(self.width) {
            softmax_row(s, x, 1.0);
        }
    }
}

/// Replaces `x` by the softmax of `scale x`, for `scale > 0`.
#[inline(always)]
pub(crate) fn softmax_row<S: Vector>(s: S, x: &mut [f32], scale: f32) {
    let max = max_of(s, x);
    let share = s.splat(exp_row(s, x, &mut [], max, scale).recip());
    for x in x.chunks_mut(S::LANES) {
        s.store(x, s.mul(s.load(x), share));
    }
}

struct SoftmaxBackward<'a> {
    y: &'a [f32],
    gradient: &'a mut [f32],
    width: usize,
}

impl Kernel for SoftmaxBackward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.y.chunks_exact(self.width).zip(self.gradient.chunks_exact_mut(self.width));
        for (y, gradient) in rows {
            softmax_backward_row(s, y, gradient, 1.0);
        }
    }
}

/// Replaces `gradient` by `scale y (gradient - sum(y gradient))`.
#[inline(always)]
pub(crate) fn softmax_backward_row<S: Vector>(s: S, y: &[f32], gradient: &mut [f32], scale: f32) {
    let mut sum = s.splat(0.0);
    for (y, gradient) in y.chunks(S::LANES).zip(gradient.chunks(S::LANES)) {
        sum = s.fma(s.load(y), s.load(gradient), sum);
    }
    let (mean, scale) = (s.splat(s.reduce_sum(sum)), s.splat(scale));
    for (y, gradient) in y.chunks(S::LANES).zip(gradient.chunks_mut(S::LANES)) {
        let y = s.mul(s.load(y), scale);
        s.store(gradient, s.mul(y, s.sub(s.load(gradient), mean)));
    }
}

/// Replaces `x` by `exp(scale (x - max))`, for `scale > 0`, and returns the sum. If `rounded` is not empty, it must
/// be as long as `x`, and gets the same values in bf16.
#[inline(always)]
pub(crate) fn exp_row<S: Vector>(s: S, x: &mut [f32], rounded: &mut [u16], max: f32, scale: f32) -> f32 {
    // e^x = 2^(x log2 e)
    let scale = s.splat(scale * std::f32::consts::LOG2_E);
    let shift = s.splat(max);
    let mut sum = s.splat(0.0);
    let mut rounded = rounded.chunks_mut(S::LANES);
    for x in x.chunks_mut(S::LANES) {
        let v = exp2_lanes(s, s.mul(s.sub(s.load(x), shift), scale));
        s.store(x, v);
        if let Some(rounded) = rounded.next() {
            s.store_bf16(rounded, v);
        }
        sum = s.add(sum, if x.len() < S::LANES { s.first(x.len(), v, s.splat(0.0)) } else { v });
    }
    s.reduce_sum(sum)
}

/// The maximum of `x`; negative infinity if it is empty.
#[inline(always)]
pub(crate) fn max_of<S: Vector>(s: S, x: &[f32]) -> f32 {
    let least = s.splat(f32::NEG_INFINITY);
    let mut max = least;
    for x in x.chunks(S::LANES) {
        let v = s.load(x);
        max = s.max(max, if x.len() < S::LANES { s.first(x.len(), v, least) } else { v });
    }
    s.reduce_max(max)
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
            for set in InstructionSet::supported() {
                y.clone_from(&x);
                set.gelu(&mut y);
                prop_assert!(reference::max_difference(&y, &reference::gelu(&x)) < 5e-7);
                for activation in Activation::ALL {
                    y.clone_from(&x);
                    set.activate(activation, &mut y);
                    let expected = reference::activation(activation, &x);
                    prop_assert!(reference::max_difference(&y, &expected) < 2e-6, "{activation:?}");
                }
                for activation in Activation::ALL {
                    let (mut wide, mut narrow) = (x.clone(), vec![0.0; x.len() / 2]);
                    wide.truncate(2 * narrow.len());
                    let expected = reference::gated(activation, &wide, wide.len().max(2));
                    let width = wide.len();
                    if width > 0 {
                        set.gate(activation, &mut wide, &mut narrow, width);
                        let difference = reference::max_difference(&narrow, &expected);
                        prop_assert!(difference < 2e-5, "{activation:?}");
                    }
                }
            }
            y.clone_from(&x);
            tanh(&mut y);
            let expected: Vec<f32> = x.iter().map(|v| v.tanh()).collect();
            prop_assert!(reference::max_difference(&y, &expected) < 1e-6);
        }

        #[test]
        fn the_slope_is_gelus(x in proptest::collection::vec(-12f32..12.0, 0..70)) {
            let (value, derivative) = (reference::gelu(&x), reference::gelu_slope(&x));
            for set in InstructionSet::supported() {
                let (mut y, mut slope) = (x.clone(), x.clone());
                set.gelu_and_slope(&x, &mut y, &mut slope);
                prop_assert!(reference::max_difference(&y, &value) < 5e-7);
                prop_assert!(reference::max_difference(&slope, &derivative) < 2e-6);
            }
        }

        #[test]
        fn softmax_and_its_gradient_equal_the_references(rows in 0usize..5, width in 1usize..70, seed: u64) {
            let mut values = reference::values(seed);
            let x: Vec<f32> = (0..rows * width).map(|_| 12.0 * values()).collect();
            let gradient: Vec<f32> = (0..rows * width).map(|_| values()).collect();
            let y: Vec<f32> = x.chunks_exact(width).flat_map(reference::softmax).collect();
            let backward: Vec<f32> = y
                .chunks_exact(width)
                .zip(gradient.chunks_exact(width))
                .flat_map(|(y, gradient)| reference::softmax_backward(y, gradient))
                .collect();
            for set in InstructionSet::supported() {
                let (mut ours, mut back) = (x.clone(), gradient.clone());
                set.softmax(&mut ours, width);
                prop_assert!(reference::max_difference(&ours, &y) < 3e-7);
                set.softmax_backward(&y, &mut back, width);
                prop_assert!(reference::max_difference(&back, &backward) < 1e-6);
            }
        }
    }

    #[test]
    fn the_slope_at_zero_is_a_half() {
        let (mut y, mut slope) = ([1.0; 3], [0.0; 3]);
        InstructionSet::current().gelu_and_slope(&[0.0, -0.0, f32::MIN_POSITIVE], &mut y, &mut slope);
        assert!(y.iter().all(|y| y.abs() < 1e-30) && slope.iter().all(|slope| (slope - 0.5).abs() < 1e-6));
    }
}
