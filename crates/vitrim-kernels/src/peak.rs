//! What the processor could do at most: the roof under which a kernel's speed is read.

use std::time::{Duration, Instant};

use crate::precision::Layout;
use crate::simd::{Bf16, Dot, F32, Kernel, MAX_LANES, STEPS, Simd, U8S8, advance, dispatch};
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
        match (D::rows::<S>(), S::NV) {
            (8, 3) => self.measure::<S, D, 8, 3>(s),
            (4, 3) => self.measure::<S, D, 4, 3>(s),
            (6, 2) => self.measure::<S, D, 6, 2>(s),
            (3, 2) => self.measure::<S, D, 3, 2>(s),
            (6, 1) => self.measure::<S, D, 6, 1>(s),
            (rows, vectors) => unreachable!("no level has tiles of {rows} rows of {vectors} vectors"),
        }
    }

    #[inline(always)]
    fn measure<S: Simd, D: Dot, const MR: usize, const NV: usize>(&self, s: S) -> f64 {
        /// Times [`STEPS`] steps: a burst of some 30 us at 16 lanes and 24 chains.
        const TURNS: usize = 2_500;
        let (a, b) = ([[1e-3f32.to_bits(); STEPS]; MR], [[[1e-3f32.to_bits(); MAX_LANES]; STEPS]; NV]);
        let mut acc = [[s.splat(0.0); NV]; MR];
        let (start, mut shortest) = (Instant::now(), Duration::MAX);
        while start.elapsed() < self.time {
            let burst = Instant::now();
            for _ in 0..TURNS {
                // Unknown to the compiler at every turn, so that no product is reused.
                let (a, b) = std::hint::black_box((&a, &b));
                // SAFETY: a holds STEPS words of MR rows, and b as many steps of NV vectors.
                unsafe {
                    advance::<S, D, MR, NV>(s, &mut acc, a.as_ptr().cast(), STEPS, b.as_ptr().cast(), STEPS)
                };
            }
            shortest = shortest.min(burst.elapsed());
        }
        let mut total = s.splat(0.0);
        for acc in acc.iter().flatten() {
            total = s.add(total, *acc);
        }
        std::hint::black_box(s.sum(total));
        let macs = TURNS * STEPS * MR * NV * S::LANES * self.layout.elements();
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
