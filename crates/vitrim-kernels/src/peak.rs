//! What the processor could do at most: the roof under which a kernel's speed is read.

use std::time::{Duration, Instant};

use crate::line::Line;
use crate::precision::Layout;
use crate::simd::{Bf16, Dot, F32, Kernel, STEPS, Simd, U8S8, advance, dispatch};
use crate::{Level, Precision};

/// MAC/s of one thread that does nothing but the multiply-adds of `level` for `precision`, in as many independent
/// chains as a tile has, on operands that stay in the L1 cache. The fastest of the bursts that fit into `time`, of one at least, so
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
        let (a, b) = ([[1e-3f32.to_bits(); STEPS]; MR], [[Line::of(1e-3f32.to_bits()); STEPS]; NV]);
        let mut acc = [[s.splat(0.0); NV]; MR];
        let (start, mut shortest) = (Instant::now(), Duration::MAX);
        loop {
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
            if start.elapsed() >= self.time {
                break;
            }
        }
        // What they come to does not matter, so that a narrow row may count a vector twice; but a loop over a row's vectors would index
        // the accumulators and so put them into memory.
        const { assert!(NV <= 3) };
        let mut total = s.splat(0.0);
        for row in acc {
            total = s.add(s.add(total, row[0]), s.add(row[1.min(NV - 1)], row[2.min(NV - 1)]));
        }
        std::hint::black_box(s.sum(total));
        let macs = TURNS * STEPS * MR * NV * S::LANES * self.layout.elements();
        macs as f64 / shortest.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Linear, Packing};

    #[test]
    fn every_level_has_a_peak() {
        for level in Level::supported() {
            for precision in Precision::ALL {
                let peak = fma_peak(level, precision, Duration::from_millis(2));
                assert!(peak > 1e7 && peak < 1e13, "{level} {precision:?}: {peak}");
            }
        }
    }

    /// A roof: accumulators that lie in memory, or operands across cache lines, would leave it below what a layer reaches.
    #[test]
    fn no_layer_is_faster_than_its_peak() {
        const ROWS: usize = 48;
        const WIDTH: usize = 192;
        let (x, weight) = (vec![0.5; ROWS * WIDTH], vec![0.5; WIDTH * WIDTH]);
        let mut y = vec![0.0; ROWS * WIDTH];
        for level in Level::supported().filter(|level| *level != Level::Scalar) {
            for precision in Precision::ALL {
                let packing = Packing { precision, level, gamma: None };
                let layer = Linear::packed(&weight, None, WIDTH, WIDTH, packing);
                let (mut peak, mut reached) = (0.0f64, 0.0f64);
                // In turn, as the machine may be busy at one moment and idle at the next.
                for _ in 0..20 {
                    peak = peak.max(fma_peak(level, precision, Duration::from_millis(2)));
                    let start = Instant::now();
                    for _ in 0..5 {
                        layer.forward(&x, &mut y);
                    }
                    let macs = 5 * ROWS * WIDTH * WIDTH;
                    reached = reached.max(macs as f64 / start.elapsed().as_secs_f64());
                }
                assert!(reached < 1.1 * peak, "{level} {precision:?}: {reached:.3e} of {peak:.3e} MAC/s");
            }
        }
    }
}
