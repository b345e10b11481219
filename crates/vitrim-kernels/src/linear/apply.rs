//! The loops around the micro-kernel, and what happens to each tile that it leaves.

use super::panels::{Line, Panel, Panels, words_mut, words_of};
use super::{Linear, Output, Precision};
use crate::elementwise::gelu_lanes;
use crate::rows::{RowBuffer, RowScale};
use crate::simd::{Bf16, F32, Kernel, MAX_LANES, Scales, Simd, Sink, U8S8, dispatch};

/// Bytes of activations that stay in a 1 MiB L2 cache beside a panel of the weight.
const ROW_BLOCK_BYTES: usize = 512 << 10;

/// Lines that hold the largest tile of any level.
const TILE_LINES: usize = 8 * 3;

impl Linear {
    /// `words` holds rows in the layer's precision, `scales` what undoes the quantisation of 8-bit ones.
    pub(super) fn multiply(&self, words: &[u32], scales: &[RowScale], output: Output<'_>) {
        let rows = words.len() / self.panels.steps;
        let check = |y: &[f32]| assert_eq!(y.len(), rows * self.outputs(), "y is [rows, out]");
        let (y, add) = match output {
            Output::Store(y) => {
                check(y);
                (Target::Sums(y), false)
            }
            Output::Add(y) => {
                check(y);
                (Target::Sums(y), true)
            }
            Output::Gelu(y) => {
                check(y);
                (Target::Gelu(y), false)
            }
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
                (Target::GeluRows(next), false)
            }
        };
        dispatch(self.level, Apply { layer: self, words, rows, scales, y, add });
    }
}

/// [`Output`] with its shape checked.
enum Target<'a> {
    /// Each tile goes straight to its place.
    Sums(&'a mut [f32]),
    Gelu(&'a mut [f32]),
    GeluRows(&'a mut RowBuffer),
}

struct Apply<'a> {
    layer: &'a Linear,
    words: &'a [u32],
    rows: usize,
    scales: &'a [RowScale],
    y: Target<'a>,
    /// Whether sums are added to what is there.
    add: bool,
}

impl Kernel for Apply<'_> {
    type Out = ();

    /// A panel of the weight stays in cache while the rows of a block stream past it; a block is what stays in
    /// L2 beside it.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Linear { panels, weight, bias, quantised, precision, .. } = self.layer;
        let Panels { steps, count, columns, .. } = *panels;
        let padded = panels.padded_columns::<S>();
        assert!(self.words.len() >= self.rows * steps, "x is [rows, in]");
        assert!(weight.len() >= panels.lines::<S>() && bias.len() >= padded, "packed at this level");
        assert!(S::MR * S::NV * S::LANES <= TILE_LINES * MAX_LANES, "room for a tile");
        if let Some(q) = quantised {
            assert!(q.scales.len() >= padded && q.sums.len() >= padded, "scales of all outputs");
            assert!(self.scales.len() >= self.rows, "a scale a row");
        }
        let block = (ROW_BLOCK_BYTES / (4 * steps)).max(S::MR) / S::MR * S::MR;
        let mut tile = [Line::ZERO; TILE_LINES];
        let blocks = self.rows.div_ceil(block);
        for b in 0..blocks {
            let (first, last) = (b * self.rows / blocks, (b + 1) * self.rows / blocks);
            let tiles = (last - first).div_ceil(S::MR);
            for p in 0..count {
                let panel = panels.panel::<S>(p);
                let width = panel.vectors * S::LANES;
                for t in 0..tiles {
                    // As even as can be, so that the last is not too small to keep the processor busy.
                    let at = |t: usize| first + t * (last - first) / tiles;
                    let (row, rows) = (at(t), at(t + 1) - at(t));
                    let kernel = match precision {
                        Precision::F32 => S::tile::<F32>(rows, panel.vectors, self.add),
                        Precision::Bf16 => S::tile::<Bf16>(rows, panel.vectors, self.add),
                        Precision::Int8 => S::tile::<U8S8>(rows, panel.vectors, self.add),
                    };
                    let (y, stride, end) = match &mut self.y {
                        Target::Sums(y) => {
                            (&mut y[row * columns + panel.column] as *mut f32, columns, columns)
                        }
                        _ => (words_mut(&mut tile).cast(), width, padded),
                    };
                    let quantised = quantised.as_ref().map_or(Scales::NONE, |q| Scales {
                        rows: &self.scales[row],
                        columns: &q.scales[panel.column],
                        sums: &q.sums[panel.column],
                    });
                    let columns = width.min(end - panel.column);
                    let sink = Sink { y, stride, columns, bias: &bias[panel.column], quantised };
                    // SAFETY: `rows` rows of `steps` words start at `row`; the weight holds the panel; bias and
                    // scales its columns, padded to whole vectors; and y or the tile the rows that are written:
                    // all as asserted above, and by who checked y's shape.
                    unsafe {
                        let a = self.words.as_ptr().add(row * steps);
                        kernel(a, steps, words_of(weight).add(panel.start), steps, &sink);
                    }
                    self.activate(s, &tile, row, rows, panel);
                }
            }
        }
    }
}

impl Apply<'_> {
    /// Takes a tile through GELU to where it belongs, if it is not there.
    #[inline(always)]
    fn activate<S: Simd>(&mut self, s: S, tile: &[Line; TILE_LINES], row: usize, rows: usize, panel: Panel) {
        if let Target::Sums(_) = self.y {
            return;
        }
        let outputs = self.layer.outputs();
        for i in 0..rows {
            for j in 0..panel.vectors {
                // SAFETY: the tile holds rows of `panel.vectors` vectors.
                let v = unsafe { s.load_all(words_of(tile).add((i * panel.vectors + j) * S::LANES)) };
                let v = gelu_lanes(s, v);
                let column = panel.column + j * S::LANES;
                match &mut self.y {
                    Target::GeluRows(y) => y.store(s, row + i, column, v),
                    Target::Gelu(y) | Target::Sums(y) => {
                        let y = &mut y[(row + i) * outputs..][..outputs];
                        s.store(&mut y[column..outputs.min(column + S::LANES)], v);
                    }
                }
            }
        }
    }
}
