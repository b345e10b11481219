//! LayerNorm over rows.

use rten_simd::SimdOp;
use rten_vecmath::{Normalize, NormalizeOptions, Sum, SumSquareSub};

/// Row-wise `(x - mean) / sqrt(var + eps) * weight + bias`, population variance.
pub struct LayerNorm {
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl LayerNorm {
    /// With a learned scale and shift, both `[D]`.
    ///
    /// # Panics
    /// If the two differ in length.
    pub fn new(weight: &[f32], bias: &[f32], eps: f32) -> Self {
        assert_eq!(weight.len(), bias.len(), "weight and bias are [D]");
        LayerNorm { weight: Some(weight.to_vec()), bias: Some(bias.to_vec()), eps }
    }

    /// Without scale and shift.
    pub fn plain(eps: f32) -> Self {
        LayerNorm { weight: None, bias: None, eps }
    }

    /// Normalises each row of `x: [rows, D]` into `y`.
    ///
    /// # Panics
    /// If lengths differ or are not whole rows.
    pub fn forward(&self, x: &[f32], y: &mut [f32], dim: usize) {
        assert!(x.len() == y.len() && x.len().is_multiple_of(dim), "x and y are [rows, D]");
        y.copy_from_slice(x);
        for row in y.chunks_exact_mut(dim) {
            let mean = Sum::new(row).dispatch() / dim as f32;
            let variance = SumSquareSub::new(row, mean).dispatch() / dim as f32;
            let options = NormalizeOptions {
                pre_scale_bias: mean,
                scale: (variance + self.eps).sqrt().recip(),
                element_scale: self.weight.as_deref(),
                element_bias: self.bias.as_deref(),
                ..Default::default()
            };
            Normalize::new_mut(row, options).dispatch();
        }
    }
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
            let mut y = vec![0.0; x.len()];
            LayerNorm::new(&weight, &bias, 1e-6).forward(&x, &mut y, dim);
            let expected = reference::layer_norm(&x, &weight, &bias, 1e-6);
            // A single-element row has variance 0: both give the bias.
            prop_assert!(reference::max_difference(&y, &expected) < 2e-4);
            LayerNorm::plain(1e-6).forward(&x, &mut y, dim);
            let expected = reference::layer_norm(&x, &vec![1.0; dim], &vec![0.0; dim], 1e-6);
            prop_assert!(reference::max_difference(&y, &expected) < 2e-4);
        }
    }
}
