//! LayerNorm and RMSNorm over rows.

use crate::rows::{RowBuffer, RowsMut};
use crate::simd::vector::Vector;
use crate::simd::{Element, Kernel, Simd};
use crate::{InstructionSet, Precision};

/// Row-wise `(x - mean) / sqrt(var + eps) * weight + bias`, population variance; or RMSNorm, in which 0 takes the place
/// of the mean.
pub struct LayerNorm {
    /// Scale and shift, `[D]` each.
    affine: Option<(Vec<f32>, Vec<f32>)>,
    eps: f32,
    /// Whether the row's mean is subtracted; not in RMSNorm.
    centred: bool,
    isa: InstructionSet,
}

impl LayerNorm {
    /// LayerNorm with a learned scale and shift, both `[D]`, with the current instruction set.
    ///
    /// # Panics
    /// If the two differ in length.
    pub fn new(weight: &[f32], bias: &[f32], eps: f32) -> Self {
        assert_eq!(weight.len(), bias.len(), "weight and bias are [D]");
        LayerNorm {
            affine: Some((weight.to_vec(), bias.to_vec())),
            eps,
            centred: true,
            isa: InstructionSet::current(),
        }
    }

    /// LayerNorm without scale and shift, with the current instruction set.
    pub fn plain(eps: f32) -> Self {
        LayerNorm { affine: None, eps, centred: true, isa: InstructionSet::current() }
    }

    /// RMSNorm (Zhang and Sennrich, 2019), `x / sqrt(mean(x^2) + eps) * weight`, with a learned scale `[D]`, with the
    /// current instruction set.
    pub fn rms(weight: &[f32], eps: f32) -> Self {
        LayerNorm { centred: false, ..LayerNorm::new(weight, &vec![0.0; weight.len()], eps) }
    }

    /// Replaces the instruction set by `isa`.
    #[cfg(test)]
    fn with(self, isa: InstructionSet) -> Self {
        LayerNorm { isa, ..self }
    }

    /// Bytes of scale and shift.
    pub fn bytes(&self) -> usize {
        self.affine.as_ref().map_or(0, |(weight, bias)| size_of::<f32>() * (weight.len() + bias.len()))
    }

    /// Normalises each row of `x: [rows, D]` into `y`.
    ///
    /// # Panics
    /// If lengths differ, or are not whole rows of the scale's length.
    pub fn forward(&self, x: &[f32], y: &mut [f32], dim: usize) {
        assert_eq!(x.len(), y.len(), "x and y are [rows, D]");
        self.check(x, dim);
        self.isa.run(Normalise { norm: self, x, dim, to: Destination::F32(y) });
    }

    /// Normalises each row of `x: [rows, D]` into `y`, rows for a layer of `precision`.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows of the scale's length.
    pub fn forward_rows(&self, x: &[f32], y: &mut RowBuffer, precision: Precision, dim: usize) {
        self.check(x, dim);
        y.reset(self.isa, precision, x.len() / dim, dim);
        let mut staging = y.take_staging(dim);
        self.isa.run(Normalise { norm: self, x, dim, to: Destination::Rows(y, &mut staging) });
        y.put_staging(staging);
    }

    /// The gradient of [`LayerNorm::forward`] at `x: [rows, D]`. `gradient: [rows, D]` is the gradient with respect
    /// to the output, and becomes the gradient with respect to `x`; returns the gradients of scale and shift, `[D]`
    /// each.
    ///
    /// # Panics
    /// If lengths differ, or are not whole rows of the scale's length, or it is an RMSNorm.
    pub fn backward(&self, x: &[f32], gradient: &mut [f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
        assert!(self.centred, "the gradient of LayerNorm");
        assert_eq!(x.len(), gradient.len(), "x and its gradient are [rows, D]");
        self.check(x, dim);
        let (mut weight, mut bias) = (vec![0.0; dim], vec![0.0; dim]);
        self.isa.run(Backward { norm: self, x, gradient, dim, weight: &mut weight, bias: &mut bias });
        (weight, bias)
    }

    fn check(&self, x: &[f32], dim: usize) {
        assert!(dim > 0 && x.len().is_multiple_of(dim), "x is [rows, D]");
        assert!(self.affine.as_ref().is_none_or(|(weight, _)| weight.len() == dim), "the scale is [D]");
    }
}

enum Destination<'a> {
    F32(&'a mut [f32]),
    /// Rows, with a buffer for one row before its conversion to 8 bits.
    Rows(&'a mut RowBuffer, &'a mut [f32]),
}

struct Normalise<'a> {
    norm: &'a LayerNorm,
    x: &'a [f32],
    dim: usize,
    to: Destination<'a>,
}

impl Kernel for Normalise<'_> {
    type Out = ();

    /// Three passes over a block of rows; the first brings it into the L1 cache.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Normalise { norm, x, dim, mut to } = self;
        for (block, x) in x.chunks(ROWS * dim).enumerate() {
            let moments = norm.moments(s, x, dim);
            for (i, x) in x.chunks_exact(dim).enumerate() {
                let row = block * ROWS + i;
                match &mut to {
                    Destination::F32(y) => norm.write(s, x, moments[i], &mut y[row * dim..][..dim]),
                    Destination::Rows(y, staging) => match y.rows_from(row) {
                        RowsMut::F32(y) => norm.write(s, x, moments[i], &mut y[..dim]),
                        RowsMut::WideBf16(y) => norm.write(s, x, moments[i], &mut y[..dim]),
                        RowsMut::Bf16(y, _) => norm.write(s, x, moments[i], &mut y[..dim]),
                        RowsMut::Int8 { max } => {
                            norm.write(s, x, moments[i], staging);
                            y.quantise(s, row, staging, max);
                        }
                    },
                }
            }
        }
    }
}

/// Rows that are normalised together, so that the dependency chains of their sums overlap.
const ROWS: usize = 8;

/// Mean and scale of one row for LayerNorm.
#[derive(Clone, Copy, Default)]
struct Moments {
    mean: f32,
    /// `1 / sqrt(variance + eps)`.
    scale: f32,
}

struct Backward<'a> {
    norm: &'a LayerNorm,
    x: &'a [f32],
    gradient: &'a mut [f32],
    dim: usize,
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();

    /// With `v` the normalised row and `g` its gradient, scale included: `(g - mean(g) - v mean(g v)) / sqrt(var + eps)`.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { norm, x, gradient, dim, weight, bias } = self;
        for (x, gradient) in x.chunks(ROWS * dim).zip(gradient.chunks_mut(ROWS * dim)) {
            let moments = norm.moments(s, x, dim);
            let rows = x.chunks_exact(dim).zip(gradient.chunks_exact_mut(dim));
            for ((x, gradient), moments) in rows.zip(moments) {
                let (mean, scale) = (s.splat(moments.mean), s.splat(moments.scale));
                let (mut sum, mut along) = (s.splat(0.0), s.splat(0.0));
                for i in (0..dim).step_by(S::LANES) {
                    // Lanes beyond the row have gradient 0, so that their other values do not count.
                    let g = s.load(&gradient[i..]);
                    let v = s.mul(s.sub(s.load(&x[i..]), mean), scale);
                    let (weight, bias) = (&mut weight[i..], &mut bias[i..]);
                    s.store(weight, s.fma(g, v, s.load(weight)));
                    s.store(bias, s.add(g, s.load(bias)));
                    let g = s.mul(g, norm.scale(s, i));
                    sum = s.add(sum, g);
                    along = s.fma(g, v, along);
                }
                let sum = s.splat(s.reduce_sum(sum) / dim as f32);
                let along = s.splat(s.reduce_sum(along) / dim as f32);
                for i in (0..dim).step_by(S::LANES) {
                    let g = s.mul(s.load(&gradient[i..]), norm.scale(s, i));
                    let v = s.mul(s.sub(s.load(&x[i..]), mean), scale);
                    let away = s.sub(s.sub(g, sum), s.mul(v, along));
                    s.store(&mut gradient[i..], s.mul(away, scale));
                }
            }
        }
    }
}

impl LayerNorm {
    /// Mean and scale of each of up to [`ROWS`] rows `x`, in passes over all of them.
    #[inline(always)]
    fn moments<S: Vector>(&self, s: S, x: &[f32], dim: usize) -> [Moments; ROWS] {
        let mut moments = [Moments::default(); ROWS];
        for (moments, x) in moments.iter_mut().zip(x.chunks_exact(dim)) {
            moments.mean = if self.centred { sum(s, x) / dim as f32 } else { 0.0 };
        }
        for (moments, x) in moments.iter_mut().zip(x.chunks_exact(dim)) {
            let variance = sum_of_squares(s, x, moments.mean) / dim as f32;
            moments.scale = (variance + self.eps).sqrt().recip();
        }
        moments
    }

    /// The scale's lanes from `i` on.
    #[inline(always)]
    fn scale<S: Vector>(&self, s: S, i: usize) -> S::V {
        match &self.affine {
            Some((weight, _)) => s.load(&weight[i..]),
            None => s.splat(1.0),
        }
    }

    /// Normalises one row.
    #[inline(always)]
    fn write<S: Vector, T: Element>(&self, s: S, x: &[f32], moments: Moments, y: &mut [T]) {
        let (mean, scale) = (s.splat(moments.mean), s.splat(moments.scale));
        let rows = y.chunks_mut(S::LANES).zip(x.chunks(S::LANES));
        match &self.affine {
            Some((weight, bias)) => {
                let affine = weight.chunks(S::LANES).zip(bias.chunks(S::LANES));
                for ((y, x), (weight, bias)) in rows.zip(affine) {
                    let v = s.mul(s.sub(s.load(x), mean), scale);
                    T::store(s, y, s.fma(v, s.load(weight), s.load(bias)));
                }
            }
            None => {
                for (y, x) in rows {
                    T::store(s, y, s.mul(s.sub(s.load(x), mean), scale));
                }
            }
        }
    }
}

/// Vectors that are summed in parallel: a single sum would wait for each addition.
const SUMS: usize = 4;

/// The sum of `x`.
#[inline(always)]
fn sum<S: Vector>(s: S, x: &[f32]) -> f32 {
    let (blocks, rest) = x.split_at(x.len() / (SUMS * S::LANES) * (SUMS * S::LANES));
    let mut sums = [s.splat(0.0); SUMS];
    for x in blocks.chunks_exact(SUMS * S::LANES) {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(S::LANES)) {
            *sum = s.add(*sum, s.load(x));
        }
    }
    for x in rest.chunks(S::LANES) {
        sums[0] = s.add(sums[0], s.load(x));
    }
    s.reduce_sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// The sum of `(x - mean)^2`.
#[inline(always)]
pub(crate) fn sum_of_squares<S: Vector>(s: S, x: &[f32], mean: f32) -> f32 {
    let (blocks, rest) = x.split_at(x.len() / (SUMS * S::LANES) * (SUMS * S::LANES));
    let mut sums = [s.splat(0.0); SUMS];
    for x in blocks.chunks_exact(SUMS * S::LANES) {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(S::LANES)) {
            let v = s.sub(s.load(x), s.splat(mean));
            *sum = s.fma(v, v, *sum);
        }
    }
    for x in rest.chunks(S::LANES) {
        let v = s.first(x.len(), s.sub(s.load(x), s.splat(mean)), s.splat(0.0));
        sums[0] = s.fma(v, v, sums[0]);
    }
    s.reduce_sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    proptest! {
        #[test]
        fn equals_the_reference(rows in 0usize..9, dim in 1usize..150, shift in -3f32..3.0, seed: u64) {
            let mut values = reference::values(seed);
            let x: Vec<f32> = (0..rows * dim).map(|_| values() + shift).collect();
            let weight: Vec<f32> = (0..dim).map(|_| values()).collect();
            let bias: Vec<f32> = (0..dim).map(|_| values()).collect();
            let expected = reference::layer_norm(&x, &weight, &bias, 1e-6);
            let plain = reference::layer_norm(&x, &vec![1.0; dim], &vec![0.0; dim], 1e-6);
            for set in InstructionSet::supported() {
                let mut y = vec![0.0; x.len()];
                LayerNorm::plain(1e-6).with(set).forward(&x, &mut y, dim);
                prop_assert!(reference::max_difference(&y, &plain) < 2e-4);
                // A row of one element has variance 0: both give the bias.
                let learned = LayerNorm::new(&weight, &bias, 1e-6).with(set);
                learned.forward(&x, &mut y, dim);
                prop_assert!(reference::max_difference(&y, &expected) < 2e-4);
                let mut scaled = vec![0.0; x.len()];
                LayerNorm::rms(&weight, 1e-6).with(set).forward(&x, &mut scaled, dim);
                prop_assert!(reference::max_difference(&scaled, &reference::rms_norm(&x, &weight, 1e-6)) < 1e-5);
                for precision in Precision::ALL {
                    let (mut operand, mut converted) = (RowBuffer::default(), RowBuffer::default());
                    learned.forward_rows(&x, &mut operand, precision, dim);
                    converted.fill(set, precision, &y, dim);
                    prop_assert_eq!(operand.rows(), rows);
                    prop_assert_eq!(operand.to_f32(), converted.to_f32());
                }
            }
        }

        #[test]
        fn the_gradient_equals_the_reference(rows in 0usize..19, dim in 1usize..70, seed: u64) {
            let mut values = reference::values(seed);
            let mut draw = |count: usize| (0..count).map(|_| values()).collect::<Vec<f32>>();
            let (x, gradient, weight) = (draw(rows * dim), draw(rows * dim), draw(dim));
            let eps = 0.01;
            let expected = reference::layer_norm_backward(&x, &gradient, &weight, eps);
            for set in InstructionSet::supported() {
                let mut dx = gradient.clone();
                let norm = LayerNorm::new(&weight, &vec![0.0; dim], eps).with(set);
                let (dw, db) = norm.backward(&x, &mut dx, dim);
                prop_assert!(reference::max_difference(&dx, &expected.0) < 1e-4);
                prop_assert!(reference::max_difference(&dw, &expected.1) < 1e-4);
                prop_assert!(reference::max_difference(&db, &expected.2) < 1e-5);
            }
        }
    }
}
