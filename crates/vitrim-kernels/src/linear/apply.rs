//! The loops around the micro-kernel, and what happens to each tile that it leaves.

use super::panels::{Line, Panel, words_mut, words_of};
use super::{Linear, Output, Panels, Precision};
use crate::elementwise::gelu_lanes;
use crate::rows::{RowBuffer, RowScale};
use crate::simd::{Bf16, F32, Kernel, MAX_LANES, Simd, U8S8, dispatch};

/// Bytes of activations that stay in a 1 MiB L2 cache beside a panel of the weight.
const ROW_BLOCK_BYTES: usize = 512 << 10;

/// Lines that hold the largest tile of any level.
const TILE_LINES: usize = 8 * 3;

impl Linear {
    /// `words` holds rows in the layer's precision, `scales` what undoes the quantisation of 8-bit ones.
    pub(super) fn multiply(&self, words: &[u32], scales: &[RowScale], output: Output<'_>) {
        let rows = words.len() / self.panels.steps;
        let y = match output {
            Output::Store(y) => Target::Store(y),
            Output::Add(y) => Target::Add(y),
            Output::Gelu(y) => Target::Gelu(y),
            Output::GeluRows(next, Precision::Int8) => {
                // A row's scale is known once it is whole.
                let mut staging = next.take_staging(rows * self.outputs());
                self.multiply(words, scales, Output::Gelu(&mut staging));
                next.fill_at(self.level, Precision::Int8, &staging, self.outputs());
                next.put_staging(staging);
                return;
            }
            Output::GeluRows(next, precision) => {
                next.reset(precision, rows, self.outputs());
                Target::GeluRows(next)
            }
        };
        if let Target::Store(y) | Target::Add(y) | Target::Gelu(y) = &y {
            assert_eq!(y.len(), rows * self.outputs(), "y is [rows, out]");
        }
        dispatch(self.level, Apply { layer: self, words, rows, scales, y });
    }
}

/// [`Output`] with its shape checked.
enum Target<'a> {
    Store(&'a mut [f32]),
    Add(&'a mut [f32]),
    Gelu(&'a mut [f32]),
    GeluRows(&'a mut RowBuffer),
}

struct Apply<'a> {
    layer: &'a Linear,
    words: &'a [u32],
    rows: usize,
    scales: &'a [RowScale],
    y: Target<'a>,
}

impl Kernel for Apply<'_> {
    type Out = ();

    /// A panel of the weight stays in cache while the rows of a block stream past it; a block is what stays in
    /// L2 beside it.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Panels { steps, count, .. } = self.layer.panels;
        assert!(self.words.len() >= self.rows * steps, "x is [rows, in]");
        assert!(self.layer.weight.len() >= self.layer.panels.lines::<S>(), "packed at this level");
        assert!(S::MR * S::NV * S::LANES <= TILE_LINES * MAX_LANES, "room for a tile");
        let block = (ROW_BLOCK_BYTES / (4 * steps)).max(S::MR) / S::MR * S::MR;
        let mut tile = [Line::ZERO; TILE_LINES];
        let blocks = self.rows.div_ceil(block);
        for b in 0..blocks {
            let (first, last) = (b * self.rows / blocks, (b + 1) * self.rows / blocks);
            let tiles = (last - first).div_ceil(S::MR);
            for p in 0..count {
                let panel = self.layer.panels.panel::<S>(p);
                for t in 0..tiles {
                    // As even as can be, so that the last is not too small to keep the processor busy.
                    let at = |t: usize| first + t * (last - first) / tiles;
                    let (row, rows) = (at(t), at(t + 1) - at(t));
                    let kernel = match self.layer.precision {
                        Precision::F32 => S::tile::<F32>(rows, panel.vectors),
                        Precision::Bf16 => S::tile::<Bf16>(rows, panel.vectors),
                        Precision::Int8 => S::tile::<U8S8>(rows, panel.vectors),
                    };
                    // SAFETY: `rows` rows of `steps` words start at `row`, the weight holds the panel, and the
                    // tile is large enough, all as asserted above.
                    unsafe {
                        let a = self.words.as_ptr().add(row * steps);
                        let b = words_of(&self.layer.weight).add(panel.start);
                        kernel(a, steps, b, steps, words_mut(&mut tile), panel.vectors * S::LANES);
                    }
                    self.finish(s, &tile, row, rows, panel);
                }
            }
        }
    }
}

impl Apply<'_> {
    /// Takes a tile of sums to where it belongs.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S, tile: &[Line; TILE_LINES], row: usize, rows: usize, panel: Panel) {
        let outputs = self.layer.outputs();
        for i in 0..rows {
            for j in 0..panel.vectors {
                // SAFETY: the tile holds rows of `panel.vectors` vectors.
                let sum = unsafe { s.load_all(words_of(tile).add((i * panel.vectors + j) * S::LANES)) };
                let column = panel.column + j * S::LANES;
                let v = self.dequantise(s, sum, row + i, column);
                let end = outputs.min(column + S::LANES);
                let at = (row + i) * outputs;
                match &mut self.y {
                    Target::Store(y) => s.store(&mut y[at + column..at + end], v),
                    Target::Add(y) => {
                        let y = &mut y[at + column..at + end];
                        s.store(y, s.add(s.load(y), v));
                    }
                    Target::Gelu(y) => s.store(&mut y[at + column..at + end], gelu_lanes(s, v)),
                    Target::GeluRows(y) => y.store(s, row + i, column, gelu_lanes(s, v)),
                }
            }
        }
    }

    /// A vector of sums, as f32 with the bias.
    #[inline(always)]
    fn dequantise<S: Simd>(&self, s: S, sum: S::V, row: usize, column: usize) -> S::V {
        let bias = s.load(&self.layer.bias[column..][..S::LANES]);
        let Some(q) = &self.layer.quantised else { return s.add(sum, bias) };
        let RowScale { scale, zero } = self.scales[row];
        let sums = s.load(&q.sums[column..][..S::LANES]);
        let integer = s.sub_product_i32(sum, s.splat_i32(zero), sums);
        let scale = s.mul(s.load(&q.scales[column..][..S::LANES]), s.splat(scale));
        s.fma(integer, scale, bias)
    }
}
