//! Activations and softmax, in place.

use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{Gelu, Softmax, Tanh};

/// Exact GELU `x Phi(x)`, through an erf of absolute error below 7e-7.
pub fn gelu(x: &mut [f32]) {
    Gelu {}.map_mut(x);
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
    }
}
