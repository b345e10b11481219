//! The processor's peak, the upper bound of a kernel's speed.

use std::time::{Duration, Instant};

use crate::instruction_set::TILE_LINES;
use crate::line::{self, Line, floats};
use crate::simd::{F32, Kernel, Multiply, Prefetch, RowScale, Scales, Simd, Sink};
use crate::{InstructionSet, Precision};

impl InstructionSet {
    /// MAC/s of one thread that only multiplies and adds for `precision`: the largest tile of the set, repeated on
    /// operands that stay in the L1 cache. The result is that of the fastest of the bursts that fit into `time` (at
    /// least one), so that other load on the machine has little effect. For the scalar set it is the speed of the
    /// compiler's code for the tile, and no upper bound.
    pub fn fma_peak(self, precision: Precision, time: Duration) -> f64 {
        self.run(Peak { precision, time })
    }
}

struct Peak {
    precision: Precision,
    time: Duration,
}

impl Kernel for Peak {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        match self.precision {
            Precision::F32 => self.measure::<S, F32>(s),
            Precision::Bf16 => self.measure::<S, S::Bf16>(s),
            Precision::Int8 => self.measure::<S, S::Int8>(s),
        }
    }
}

impl Peak {
    #[inline(always)]
    fn measure<S: Simd, D: Multiply<S>>(&self, s: S) -> f64 {
        /// Tiles per burst: some 30 us with 16 lanes and 24 registers.
        const TURNS: usize = 100;
        /// Steps per tile: many, so that starts and ends of tiles are rare; few enough for the operands to fit into a
        /// cache of 32 KiB.
        const STEPS: usize = 100;
        let lines_per_step = (S::NV * S::LANES).div_ceil(Line::WORDS);
        let one = 1e-3f32.to_bits();
        let (a, b) = (vec![one; D::ROWS * STEPS], vec![Line::filled(one); STEPS * lines_per_step]);
        let zeros = [Line::ZERO; TILE_LINES];
        let (zeros, rows) = (floats(line::words(&zeros)).as_ptr(), vec![RowScale::default(); D::ROWS]);
        let mut y = [Line::ZERO; TILE_LINES];
        // Hidden from the compiler, which would remove tiles whose result is not read.
        let tile = std::hint::black_box(D::tile(s, D::ROWS, S::NV, false));
        let (start, mut shortest) = (Instant::now(), Duration::MAX);
        loop {
            let burst = Instant::now();
            for _ in 0..TURNS {
                let sink = Sink {
                    y: line::words_mut(&mut y).as_mut_ptr().cast(),
                    stride: S::NV * S::LANES,
                    bias: zeros,
                    scales: Scales { rows: rows.as_ptr(), columns: zeros, sums: zeros },
                    prefetch: Prefetch::NONE,
                };
                // SAFETY: a holds the steps of all rows, b as many steps of all vectors, and y, the zeros and `rows`
                // hold a tile.
                unsafe { tile(a.as_ptr(), STEPS, line::words(&b).as_ptr(), STEPS, &sink) };
            }
            shortest = shortest.min(burst.elapsed());
            if start.elapsed() >= self.time {
                break;
            }
        }
        let macs = TURNS * STEPS * D::ROWS * S::NV * S::LANES * D::LAYOUT.elements();
        macs as f64 / shortest.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Linear, Packing};

    #[test]
    fn every_set_has_a_peak() {
        for set in InstructionSet::supported() {
            for precision in Precision::ALL {
                let peak = set.fma_peak(precision, Duration::from_millis(2));
                assert!(peak > 1e7 && peak < 1e13, "{set} {precision:?}: {peak}");
            }
        }
    }

    /// The peak must be an upper bound: with accumulators in memory, or operands across cache lines, it would be
    /// lower than a layer's speed.
    #[test]
    fn no_layer_is_faster_than_its_peak() {
        const ROWS: usize = 48;
        const WIDTH: usize = 192;
        let (x, weight) = (vec![0.5; ROWS * WIDTH], vec![0.5; WIDTH * WIDTH]);
        let mut y = vec![0.0; ROWS * WIDTH];
        for set in InstructionSet::supported().filter(|set| set.to_string() != "scalar") {
            for precision in Precision::ALL {
                let packing = Packing { precision, isa: set, gamma: None };
                let layer = Linear::packed(&weight, None, WIDTH, WIDTH, packing);
                let (mut peak, mut reached) = (0.0f64, 0.0f64);
                // Alternately, because the load of the machine changes.
                for _ in 0..20 {
                    peak = peak.max(set.fma_peak(precision, Duration::from_millis(2)));
                    let start = Instant::now();
                    for _ in 0..5 {
                        layer.forward(&x, &mut y);
                    }
                    let macs = 5 * ROWS * WIDTH * WIDTH;
                    reached = reached.max(macs as f64 / start.elapsed().as_secs_f64());
                }
                assert!(reached < 1.1 * peak, "{set} {precision:?}: {reached:.3e} of {peak:.3e} MAC/s");
            }
        }
    }
}
