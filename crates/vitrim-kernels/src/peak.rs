//! What the processor could do at most: the roof under which a kernel's speed is read.

use std::time::{Duration, Instant};

use crate::simd::{Bf16, Dot, F32, Kernel, Simd, U8S8, dispatch};
use crate::{Level, Precision};

/// MAC/s of one thread whose registers hold everything: the multiply-adds of `level` for `precision`, as many
/// independent chains as a tile has. The fastest of the bursts that fit into `time`, so that what else runs on
/// the machine shows little.
///
/// # Panics
/// If the processor lacks the level.
pub fn fma_peak(level: Level, precision: Precision, time: Duration) -> f64 {
    dispatch(level, Chains { precision, time })
}

struct Chains {
    precision: Precision,
    time: Duration,
}

impl Kernel for Chains {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        match (self.precision, S::MR * S::NV) {
            (Precision::F32, 24..) => self.measure::<S, F32, 24>(s),
            (Precision::F32, 12..) => self.measure::<S, F32, 12>(s),
            (Precision::F32, _) => self.measure::<S, F32, 6>(s),
            (Precision::Bf16, 24..) => self.measure::<S, Bf16, 24>(s),
            (Precision::Bf16, 12..) => self.measure::<S, Bf16, 12>(s),
            (Precision::Bf16, _) => self.measure::<S, Bf16, 6>(s),
            (Precision::Int8, 24..) => self.measure::<S, U8S8, 24>(s),
            (Precision::Int8, 12..) => self.measure::<S, U8S8, 12>(s),
            (Precision::Int8, _) => self.measure::<S, U8S8, 6>(s),
        }
    }
}

impl Chains {
    #[inline(always)]
    fn measure<S: Simd, D: Dot, const CHAINS: usize>(&self, s: S) -> f64 {
        /// A burst: some 20 us at 16 lanes and 24 chains.
        const STEPS: usize = 10_000;
        let mut acc = [s.splat(0.0); CHAINS];
        // Unknown to the compiler, so that nothing is computed ahead; multiplied, they add next to nothing.
        let a = s.splat(std::hint::black_box(1e-3));
        let b = s.splat(std::hint::black_box(1e-3));
        let (start, mut shortest) = (Instant::now(), Duration::MAX);
        while start.elapsed() < self.time {
            let burst = Instant::now();
            for _ in 0..STEPS {
                for acc in &mut acc {
                    *acc = D::dot(s, *acc, a, b);
                }
            }
            shortest = shortest.min(burst.elapsed());
        }
        let total = acc.into_iter().fold(s.splat(0.0), |total, acc| s.add(total, acc));
        std::hint::black_box(s.sum(total));
        let macs = STEPS * CHAINS * S::LANES * self.precision.elements_per_word();
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
