//! What the processor could do at most: the roof under which a kernel's speed is read.

use std::time::{Duration, Instant};

use crate::instruction_set::TILE_LINES;
use crate::line::{self, Line, floats};
use crate::simd::{F32, Kernel, Multiply, Prefetch, RowScale, Scales, Simd, Sink};
use crate::{InstructionSet, Precision};

impl InstructionSet {
    /// MAC/s of one thread that does nothing but multiply and add for `precision`: the largest tile of the set again and again, on
    /// operands that stay in the L1 cache. The fastest of the bursts that fit into `time`, of one at least, so
    /// that what else runs on the machine shows little. Of the scalar set it is what the compiler makes of the tile,
    /// and no roof.
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
        /// Tiles of a burst of some 30 us at 16 lanes and 24 registers.
        const TURNS: usize = 100;
        /// So that a tile begins and ends seldom, and its operands leave room in a cache of 32 KiB.
        const STEPS: usize = 100;
        let lines_per_step = (S::NV * S::LANES).div_ceil(Line::WORDS);
        let one = 1e-3f32.to_bits();
        let (a, b) = (vec![one; D::ROWS * STEPS], vec![Line::filled(one); STEPS * lines_per_step]);
        let zeros = [Line::ZERO; TILE_LINES];
        let (zeros, rows) = (floats(line::words(&zeros)).as_ptr(), vec![RowScale::default(); D::ROWS]);
        let mut y = [Line::ZERO; TILE_LINES];
        // Unknown to the compiler, which would leave out tiles that nobody reads.
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
                // SAFETY: a holds the steps of all rows, b as many steps of all vectors, and y, the zeros and `rows` a tile's.
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

    /// A roof: accumulators that lie in memory, or operands across cache lines, would leave it below what a layer reaches.
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
                // In turn, as the machine may be busy at one moment and idle at the next.
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
