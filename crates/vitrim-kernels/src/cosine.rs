//! Cosine similarity of rows.

use crate::InstructionSet;
use crate::norm::sum_of_squares;
use crate::simd::{Kernel, Simd};

impl InstructionSet {
    /// Scales each row of `x: [rows, width]` to norm 1; a row of zeros stays zero.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows.
    pub fn normalise_rows(self, x: &mut [f32], width: usize) {
        assert!(width > 0 && x.len().is_multiple_of(width), "x is [rows, width]");
        self.run(Normalise { x, width });
    }

    /// Cosine of `a` and `b`, each minus its mean; 0 if one of them is constant.
    ///
    /// # Panics
    /// If `a` and `b` differ in length.
    pub fn centred_cosine(self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "as many of both");
        self.run(CentredCosine { a, b })
    }
}

struct Normalise<'a> {
    x: &'a mut [f32],
    width: usize,
}

impl Kernel for Normalise<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.x.chunks_exact_mut(self.width) {
            let scale = s.splat(1.0 / sum_of_squares(s, x, 0.0).sqrt().max(f32::MIN_POSITIVE));
            for x in x.chunks_mut(S::LANES) {
                s.store(x, s.mul(s.load(x), scale));
            }
        }
    }
}

struct CentredCosine<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for CentredCosine<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let n = self.a.len() as f32;
        let [mut a, mut b, mut aa, mut bb, mut ab] = [s.splat(0.0); 5];
        for (x, y) in self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES)) {
            let (x, y) = (s.load(x), s.load(y));
            (a, b) = (s.add(a, x), s.add(b, y));
            (aa, bb, ab) = (s.fma(x, x, aa), s.fma(y, y, bb), s.fma(x, y, ab));
        }
        let (a, b) = (s.reduce_sum(a), s.reduce_sum(b));
        let (aa, bb, ab) =
            (s.reduce_sum(aa) - a * a / n, s.reduce_sum(bb) - b * b / n, s.reduce_sum(ab) - a * b / n);
        if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    proptest! {
        #[test]
        fn equal_the_slow_rules(d in 2usize..70, seed: u64) {
            let mut values = reference::values(seed);
            let mut draw = || (0..d).map(|_| values()).collect::<Vec<f32>>();
            let (a, b) = (draw(), draw());
            let centred = |x: &[f32]| {
                let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / d as f64;
                x.iter().map(|v| f64::from(*v) - mean).collect::<Vec<f64>>()
            };
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let (ca, cb) = (centred(&a), centred(&b));
            let lengths = dot(&ca, &ca) * dot(&cb, &cb);
            prop_assume!(lengths > 1e-4);
            let expected = dot(&ca, &cb) / lengths.sqrt();
            let norm = a.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let unit: Vec<f32> = a.iter().map(|v| (f64::from(*v) / norm) as f32).collect();
            for set in InstructionSet::supported() {
                prop_assert!((f64::from(set.centred_cosine(&a, &b)) - expected).abs() < 1e-4);
                let mut x = [a.clone(), vec![0.0; d]].concat();
                set.normalise_rows(&mut x, d);
                prop_assert!(reference::max_difference(&x[..d], &unit) < 1e-6);
                prop_assert!(x[d..].iter().all(|v| *v == 0.0));
            }
        }
    }

    #[test]
    fn a_constant_is_like_nothing() {
        assert_eq!(InstructionSet::current().centred_cosine(&[1.0; 20], &[1.0; 20]), 0.0);
    }
}
