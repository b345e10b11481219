//! LayerNorm over rows.

use crate::rows::RowBuffer;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Level, Precision};

/// Row-wise `(x - mean) / sqrt(var + eps) * weight + bias`, population variance.
pub struct LayerNorm {
    /// Scale and shift, `[D]` each.
    affine: Option<(Vec<f32>, Vec<f32>)>,
    eps: f32,
}

impl LayerNorm {
    /// With a learned scale and shift, both `[D]`.
    ///
    /// # Panics
    /// If the two differ in length.
    pub fn new(weight: &[f32], bias: &[f32], eps: f32) -> Self {
        assert_eq!(weight.len(), bias.len(), "weight and bias are [D]");
        LayerNorm { affine: Some((weight.to_vec(), bias.to_vec())), eps }
    }

    /// Without scale and shift.
    pub fn plain(eps: f32) -> Self {
        LayerNorm { affine: None, eps }
    }

    /// Normalises each row of `x: [rows, D]` into `y`.
    ///
    /// # Panics
    /// If lengths differ or are not whole rows of the scale's length.
    pub fn forward(&self, x: &[f32], y: &mut [f32], dim: usize) {
        self.forward_at(Level::current(), x, y, dim);
    }

    /// [`LayerNorm::forward`] with the instructions of `level`.
    ///
    /// # Panics
    /// As [`LayerNorm::forward`], or if the processor lacks the level.
    pub fn forward_at(&self, level: Level, x: &[f32], y: &mut [f32], dim: usize) {
        assert_eq!(x.len(), y.len(), "x and y are [rows, D]");
        self.check(x, dim);
        dispatch(level, Normalise { norm: self, x, dim, to: Target::F32(y) });
    }

    /// Normalises each row of `x: [rows, D]` into the operand of a layer of `precision`.
    ///
    /// # Panics
    /// If `x` is not whole rows of the scale's length.
    pub fn forward_rows(&self, x: &[f32], y: &mut RowBuffer, precision: Precision, dim: usize) {
        self.forward_rows_at(Level::current(), x, y, precision, dim);
    }

    /// [`LayerNorm::forward_rows`] with the instructions of `level`.
    ///
    /// # Panics
    /// As [`LayerNorm::forward_rows`], or if the processor lacks the level.
    pub fn forward_rows_at(
        &self,
        level: Level,
        x: &[f32],
        y: &mut RowBuffer,
        precision: Precision,
        dim: usize,
    ) {
        self.check(x, dim);
        y.reset(precision, x.len() / dim, dim);
        let mut staging = y.take_staging(dim);
        dispatch(level, Normalise { norm: self, x, dim, to: Target::Rows(y, &mut staging) });
        y.put_staging(staging);
    }

    fn check(&self, x: &[f32], dim: usize) {
        assert!(dim > 0 && x.len().is_multiple_of(dim), "x is [rows, D]");
        assert!(self.affine.as_ref().is_none_or(|(weight, _)| weight.len() == dim), "the scale is [D]");
    }
}

enum Target<'a> {
    F32(&'a mut [f32]),
    /// With room for a row on its way to 8 bits.
    Rows(&'a mut RowBuffer, &'a mut [f32]),
}

struct Normalise<'a> {
    norm: &'a LayerNorm,
    x: &'a [f32],
    dim: usize,
    to: Target<'a>,
}

impl Kernel for Normalise<'_> {
    type Out = ();

    /// Three passes over a row that the first has brought into the L1 cache.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Normalise { norm, x, dim, mut to } = self;
        for (r, x) in x.chunks_exact(dim).enumerate() {
            let mean = sum(s, x) / dim as f32;
            let centre = s.splat(mean);
            let variance = sum_of_squares(s, x, mean) / dim as f32;
            let scale = s.splat((variance + norm.eps).sqrt().recip());
            for (i, x) in x.chunks(S::LANES).enumerate() {
                let columns = i * S::LANES..i * S::LANES + x.len();
                let mut v = s.mul(s.sub(s.load(x), centre), scale);
                if let Some((weight, bias)) = &norm.affine {
                    v = s.fma(v, s.load(&weight[columns.clone()]), s.load(&bias[columns.clone()]));
                }
                match &mut to {
                    Target::F32(y) => s.store(&mut y[r * dim..][columns], v),
                    Target::Rows(y, staging) if y.precision() == Precision::Int8 => {
                        s.store(&mut staging[columns], v);
                    }
                    Target::Rows(y, _) => y.store(s, r, columns.start, v),
                }
            }
            if let Target::Rows(y, staging) = &mut to
                && y.precision() == Precision::Int8
            {
                y.quantise(s, r, staging);
            }
        }
    }
}

/// Vectors that are summed at once: one sum after the other would wait for each addition.
const SUMS: usize = 4;

/// The sum of `x`.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
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
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// The sum of `(x - mean)^2`.
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let (blocks, rest) = x.split_at(x.len() / (SUMS * S::LANES) * (SUMS * S::LANES));
    let mut sums = [s.splat(0.0); SUMS];
    for x in blocks.chunks_exact(SUMS * S::LANES) {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(S::LANES)) {
            let v = s.sub(s.load(x), s.splat(mean));
            *sum = s.fma(v, v, *sum);
        }
    }
    let (vectors, rest) = rest.split_at(rest.len() / S::LANES * S::LANES);
    for x in vectors.chunks_exact(S::LANES) {
        let v = s.sub(s.load(x), s.splat(mean));
        sums[0] = s.fma(v, v, sums[0]);
    }
    let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))) + rest
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
            let learned = LayerNorm::new(&weight, &bias, 1e-6);
            let expected = reference::layer_norm(&x, &weight, &bias, 1e-6);
            let plain = reference::layer_norm(&x, &vec![1.0; dim], &vec![0.0; dim], 1e-6);
            for level in Level::supported() {
                let mut y = vec![0.0; x.len()];
                LayerNorm::plain(1e-6).forward_at(level, &x, &mut y, dim);
                prop_assert!(reference::max_difference(&y, &plain) < 2e-4);
                // A single-element row has variance 0: both give the bias.
                learned.forward_at(level, &x, &mut y, dim);
                prop_assert!(reference::max_difference(&y, &expected) < 2e-4);
                for precision in Precision::ALL {
                    let (mut operand, mut converted) = (RowBuffer::default(), RowBuffer::default());
                    learned.forward_rows_at(level, &x, &mut operand, precision, dim);
                    converted.fill_at(level, precision, &y, dim);
                    prop_assert_eq!(operand.rows(), rows);
                    prop_assert_eq!(operand.to_f32(), converted.to_f32());
                }
            }
        }
    }
}
