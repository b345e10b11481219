//! Rotation of queries and keys by angles (rotary position embeddings).

use crate::InstructionSet;
use crate::simd::{Kernel, Simd};

/// Which two channels of a head are rotated together, for a head of d channels and angle i < d / 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelPairs {
    /// Channels i and i + d / 2.
    Halves,
    /// Channels 2 i and 2 i + 1.
    Neighbours,
}

impl InstructionSet {
    /// Rotates each head of `heads: [n, d]` by the angles whose cosines and sines are `cosines: [d / 2]` and
    /// `sines: [d / 2]`: `(a cos - b sin, b cos + a sin)` for each pair (a, b) of channels.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn rotate(self, heads: &mut [f32], cosines: &[f32], sines: &[f32], pairs: ChannelPairs) {
        assert_eq!(cosines.len(), sines.len(), "a cosine and a sine of each angle");
        assert!(!cosines.is_empty() && heads.len().is_multiple_of(2 * cosines.len()), "heads are [n, d]");
        match pairs {
            ChannelPairs::Halves => self.run(RotateHalves { heads, cosines, sines }),
            ChannelPairs::Neighbours => {
                for head in heads.chunks_exact_mut(2 * cosines.len()) {
                    let angles = cosines.iter().zip(sines);
                    for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
                        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
                    }
                }
            }
        }
    }
}

struct RotateHalves<'a> {
    heads: &'a mut [f32],
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl Kernel for RotateHalves<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.cosines.len();
        for head in self.heads.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            let angles = self.cosines.chunks(S::LANES).zip(self.sines.chunks(S::LANES));
            for ((low, high), (cos, sin)) in
                low.chunks_mut(S::LANES).zip(high.chunks_mut(S::LANES)).zip(angles)
            {
                let (a, b, cos, sin) = (s.load(low), s.load(high), s.load(cos), s.load(sin));
                s.store(low, s.sub(s.mul(a, cos), s.mul(b, sin)));
                s.store(high, s.fma(b, cos, s.mul(a, sin)));
            }
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
        fn equals_the_reference(heads in 0usize..5, half in 1usize..40, seed: u64) {
            let mut values = reference::values(seed);
            let x: Vec<f32> = (0..heads * 2 * half).map(|_| values()).collect();
            let angles: Vec<f32> = (0..half).map(|_| 9.0 * values()).collect();
            let cosines: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sines: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            for pairs in [ChannelPairs::Halves, ChannelPairs::Neighbours] {
                let expected = reference::rotate(&x, &angles, pairs);
                for set in InstructionSet::supported() {
                    let mut y = x.clone();
                    set.rotate(&mut y, &cosines, &sines, pairs);
                    prop_assert!(reference::max_difference(&y, &expected) < 1e-5, "{pairs:?} {set}");
                }
            }
        }
    }
}
