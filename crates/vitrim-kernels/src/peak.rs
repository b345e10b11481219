//! What the processor could do at most: the roof under which a kernel's speed is read.

use std::time::{Duration, Instant};

use crate::precision::Layout;
use crate::simd::{Bf16, Dot, F32, Kernel, MAX_LANES, Simd, U8S8, dispatch};
use crate::{Level, Precision};

/// MAC/s of one thread that does nothing but the multiply-adds of `level` for `precision`, in as many independent
/// chains as a tile has, on operands that stay in the L1 cache. The fastest of the bursts that fit into `time`, so
/// that what else runs on the machine shows little. At [`Level::Scalar`] it is what the compiler makes of the chains,
/// and no roof.
///
/// # Panics
/// If the processor lacks the level.
pub fn fma_peak(level: Level, precision: Precision, time: Duration) -> f64 {
    dispatch(level, Chains { layout: Layout::new(precision, level), time })
}

struct Chains {
    layout: Layout,
    time: Duration,
}

impl Kernel for Chains {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        match self.layout {
            Layout::F32 | Layout::WideBf16 => self.tile::<S, F32>(s),
            Layout::Bf16Pair => self.tile::<S, Bf16>(s),
            Layout::IntQuad => self.tile::<S, U8S8>(s),
        }
    }
}

impl Chains {
    /// Chains of a tile's shape.
    #[inline(always)]
    fn tile<S: Simd, D: Dot>(&self, s: S) -> f64 {
        match S::NV {
            3 => self.measure::<S, D, 8, 3>(s),
            2 => self.measure::<S, D, 6, 2>(s),
            _ => self.measure::<S, D, 6, 1>(s),
        }
    }

    #[inline(always)]
    fn measure<S: Simd, D: Dot, const MR: usize, const NV: usize>(&self, s: S) -> f64 {
        /// A burst: some 30 us at 16 lanes and 24 chains.
        const STEPS: usize = 10_000;
        let operands = [[1e-3; MAX_LANES]; 8];
        let mut acc = [[s.splat(0.0); NV]; MR];
        let (start, mut shortest) = (Instant::now(), Duration::MAX);
        while start.elapsed() < self.time {
            let burst = Instant::now();
            for _ in 0..STEPS {
                // Unknown to the compiler at every step, and different for each row, so that no product is reused.
                let operands = std::hint::black_box(&operands);
                for (acc, a) in acc.iter_mut().zip(operands) {
                    let a = s.load(a);
                    for (acc, b) in acc.iter_mut().zip(operands) {
                        *acc = D::dot(s, *acc, a, s.load(b));
                    }
                }
            }
            shortest = shortest.min(burst.elapsed());
        }
        let mut total = s.splat(0.0);
        for acc in acc.iter().flatten() {
            total = s.add(total, *acc);
        }
        std::hint::black_box(s.sum(total));
        let macs = STEPS * MR * NV * S::LANES * self.layout.elements();
        macs as f64 / shortest.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_peak() {
        for level in Level::supported() {
            for precision in Precision::ALL {
                let peak = fma_peak(level, precision, Duration::from_millis(2));
                assert!(peak > 1e7 && peak < 1e13, "{level} {precision:?}: {peak}");
            }
        }
    }
}
