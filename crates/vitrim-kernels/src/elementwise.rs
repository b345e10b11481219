//! Activations and softmax, in place.

use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{Erf, Exp, Gelu, Softmax, Tanh};

/// Exact GELU `x Phi(x)`, through an erf of absolute error below 7e-7.
pub fn gelu(x: &mut [f32]) {
    Gelu {}.map_mut(x);
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
    if !x.is_empty() {
        Softmax::new_mut(x).dispatch();
    }
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
            gelu(&mut y);
            prop_assert!(reference::max_difference(&y, &reference::gelu(&x)) < 5e-6);
            y.clone_from(&x);
            tanh(&mut y);
            let expected: Vec<f32> = x.iter().map(|v| v.tanh()).collect();
            prop_assert!(reference::max_difference(&y, &expected) < 1e-6);
            y.clone_from(&x);
            softmax(&mut y);
            prop_assert!(reference::max_difference(&y, &reference::softmax(&x)) < 1e-6);
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
