//! The loops around the micro-kernel, and the epilogue of each tile.

use std::ops::Range;

use super::epilogue::Epilogue;
use super::packed::{Packed, SLICE_STEPS};
use super::panels::{Panel, Panels, Part};
use crate::elementwise::{Gelu, GeluTanh, QuickGelu, Silu, gated_row};
use crate::instruction_set::TILE_LINES;
use crate::line::{self, Line, floats, halves_mut};
use crate::rows::{RowBuffer, RowsMut};
use crate::simd::{
    Element, F32, Identity, Kernel, Map, Multiply, Prefetch, RowScale, STEPS, Scales, Simd, Sink, store_row,
};
use crate::word::words_mut;
use crate::{Activation, Precision};

/// Bytes of activations that fit into a 1 MiB L2 cache together with a panel of the weight.
const ROW_BLOCK_BYTES: usize = 512 << 10;

/// The bias for all slices of a row except the first, which adds the layer's bias.
static NO_BIAS: [Line; TILE_LINES] = [Line::ZERO; TILE_LINES];

/// Bytes of f32 rows that fit into half of a 512 KiB L2 cache, shared with another thread, before they are converted
/// to their destination.
const STAGING_BYTES: usize = 256 << 10;

impl Packed {
    /// Multiplies `words`, rows in the layer's layout; `scales` undo the quantisation of 8-bit rows. Meanwhile, the
    /// beginning of `next`, the layer that this thread is likely to apply next, is prefetched into cache.
    pub(super) fn multiply(
        &self,
        next: Option<&Packed>,
        words: &[u32],
        scales: &[RowScale],
        epilogue: Epilogue<'_>,
    ) {
        let rows = words.len() / self.panels.steps;
        let check = |y: &[f32]| assert_eq!(y.len(), rows * self.outputs(), "y is [rows, out]");
        let (y, add) = match epilogue {
            Epilogue::Store(y) => {
                check(y);
                (Destination::Sums(y), false)
            }
            Epilogue::Add(y) => {
                check(y);
                (Destination::Sums(y), true)
            }
            Epilogue::StorePairs(y) => {
                assert_eq!(2 * y.len(), rows * self.outputs(), "y is [rows, out / 2]");
                assert!(self.outputs().is_multiple_of(2), "pairs of outputs");
                (Destination::Pairs(halves_mut(words_mut(y))), false)
            }
            Epilogue::Activate(activation, y) => {
                check(y);
                (Destination::Activated(activation, y), false)
            }
            Epilogue::ActivateRows(activation, to, Precision::Int8) => {
                // The scale of a row is known only when the row is complete.
                to.reset(self.isa, Precision::Int8, rows, self.outputs());
                return self.staged(next, words, scales, to, |next, words, scales, staging, to, first| {
                    self.multiply(next, words, scales, Epilogue::Activate(activation, staging));
                    to.convert_from(self.isa, first, staging);
                });
            }
            Epilogue::GateRows(activation, to, precision) => {
                assert!(self.outputs().is_multiple_of(2), "a gated product has two halves");
                // The two halves of a row lie in different tiles.
                to.reset(self.isa, precision, rows, self.outputs() / 2);
                return self.staged(next, words, scales, to, |next, words, scales, staging, to, first| {
                    self.multiply(next, words, scales, Epilogue::Store(staging));
                    self.isa.run(Gate { activation, x: staging, rows: to, first });
                });
            }
            Epilogue::ActivateRows(activation, to, precision) => {
                to.reset(self.isa, precision, rows, self.outputs());
                (Destination::ActivatedRows(activation, to), false)
            }
        };
        self.isa.run(Apply { layer: self, next, words, rows, scales, y, add });
    }

    /// Calls `each` for blocks of rows, with the layer that comes next, the block's words and scales, a buffer for as
    /// many rows of f32 outputs, `to`, and the index of the block's first row in `to`.
    fn staged(
        &self,
        next: Option<&Packed>,
        words: &[u32],
        scales: &[RowScale],
        to: &mut RowBuffer,
        each: impl Fn(Option<&Packed>, &[u32], &[RowScale], &mut [f32], &mut RowBuffer, usize),
    ) {
        let (steps, outputs) = (self.panels.steps, self.outputs());
        let rows = words.len() / steps;
        let blocks = (4 * rows * outputs).div_ceil(STAGING_BYTES).max(1);
        let block = rows.div_ceil(blocks).max(1);
        let mut staging = to.take_staging(block * outputs);
        for (i, words) in words.chunks(block * steps).enumerate() {
            let (first, count) = (i * block, words.len() / steps);
            // Only 8-bit rows have scales.
            let scales = scales.get(first..first + count).unwrap_or(scales);
            let next = if first + count < rows { Some(self) } else { next };
            each(next, words, scales, &mut staging[..count * outputs], to, first);
        }
        to.put_staging(staging);
    }
}

/// Writes the activation of the first half of `x: [rows, 2 columns]` times the second to the rows from `first` on.
struct Gate<'a> {
    activation: Activation,
    x: &'a mut [f32],
    rows: &'a mut RowBuffer,
    first: usize,
}

impl Kernel for Gate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * self.rows.columns();
        for (r, x) in self.x.chunks_exact_mut(width).enumerate() {
            let x = gated_row(s, self.activation, x);
            self.rows.set(s, self.first + r, x);
        }
    }
}

/// [`Epilogue`] with its shape checked.
enum Destination<'a> {
    /// The micro-kernel writes each tile itself.
    Sums(&'a mut [f32]),
    /// Rounded to bf16.
    Pairs(&'a mut [u16]),
    Activated(Activation, &'a mut [f32]),
    ActivatedRows(Activation, &'a mut RowBuffer),
}

struct Apply<'a> {
    layer: &'a Packed,
    /// The layer that is likely to come next, to be prefetched.
    next: Option<&'a Packed>,
    words: &'a [u32],
    rows: usize,
    scales: &'a [RowScale],
    y: Destination<'a>,
    /// Whether sums are added to the values in the output.
    add: bool,
}

impl Kernel for Apply<'_> {
    type Out = ();

    /// A panel of the weight stays in L1 while the rows of a block stream past it; a block stays in L2. Each block
    /// reads the whole weight, so that it must have many rows. Long rows are therefore multiplied in slices, whose
    /// sums are added in the output.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Packed { panels, weight, bias, quantised, .. } = self.layer;
        let Panels { steps, count, columns, .. } = *panels;
        let padded = panels.padded_columns::<S>();
        assert!(self.words.len() >= self.rows * steps, "x is [rows, in]");
        assert!(weight.len() >= panels.lines::<S>() && bias.len() >= padded, "packed by this set");
        const { assert!(S::TILE_LINES <= TILE_LINES, "room for a tile") };
        if let Some(q) = quantised {
            assert!(q.scales.len() >= padded && q.sums.len() >= padded, "scales of all outputs");
            assert!(self.scales.len() >= self.rows, "a scale a row");
        }
        let sums = matches!(self.y, Destination::Sums(_)) && quantised.is_none();
        let slices = if sums { steps.div_ceil(SLICE_STEPS) } else { 1 };
        let precision = self.layer.precision;
        let tallest = match precision {
            Precision::F32 => <F32 as Multiply<S>>::ROWS,
            Precision::Bf16 => S::Bf16::ROWS,
            Precision::Int8 => S::Int8::ROWS,
        };
        let block = (ROW_BLOCK_BYTES / (4 * steps.div_ceil(slices))).max(tallest) / tallest * tallest;
        let mut tile = [Line::ZERO; TILE_LINES];
        let blocks = self.rows.div_ceil(block);
        let parts = slices * count;
        for (b, i) in (0..blocks).flat_map(|b| (0..parts).map(move |i| (b, i))) {
            let (first, last) = (b * self.rows / blocks, (b + 1) * self.rows / blocks);
            let tiles = (last - first).div_ceil(tallest);
            let part = panels.part::<S>(i, slices);
            let Part { panel, steps: Range { start: step, end }, .. } = part;
            let width = panel.vectors * S::LANES;
            let next = if i + 1 < parts || b + 1 < blocks {
                &line::words(weight)[panels.part::<S>((i + 1) % parts, slices).words]
            } else {
                self.next.map_or(&[][..], Packed::beginning::<S>)
            };
            let adds = self.add || step > 0;
            for t in 0..tiles {
                // Tiles of about equal size, so that the last is not too small to keep the processor busy.
                let at = |t: usize| first + t * (last - first) / tiles;
                let (row, rows) = (at(t), at(t + 1) - at(t));
                // A tile goes through a buffer if its epilogue is more than a sum, or if it is narrower than the
                // micro-kernel writes.
                let (y, stride, add) = match &mut self.y {
                    Destination::Sums(y) if panel.column + width <= columns => {
                        (y[row * columns + panel.column..].as_mut_ptr(), columns, adds)
                    }
                    _ => (line::words_mut(&mut tile).as_mut_ptr().cast(), width, false),
                };
                let kernel = match precision {
                    Precision::F32 => <F32 as Multiply<S>>::tile(s, rows, panel.vectors, add),
                    Precision::Bf16 => S::Bf16::tile(s, rows, panel.vectors, add),
                    Precision::Int8 => S::Int8::tile(s, rows, panel.vectors, add),
                };
                let scales = quantised.as_ref().map_or(Scales::NONE, |q| Scales {
                    rows: self.scales[row..].as_ptr(),
                    columns: q.scales[panel.column..].as_ptr(),
                    sums: q.sums[panel.column..].as_ptr(),
                });
                let bias = if step > 0 { floats(line::words(&NO_BIAS)) } else { &bias[panel.column..] };
                let prefetch = prefetch_share(next, t, tiles, end - step);
                let sink = Sink { y, stride, bias: bias.as_ptr(), scales, prefetch };
                // SAFETY: `rows` rows of `steps` words start at `row`, the weight holds the panel, and the slice lies
                // within both; biases and scales are padded to whole vectors, at least as wide as a panel; y or the
                // tile holds the rows that are written: asserted above, or the caller checked the length of `y`.
                unsafe {
                    let a = self.words.as_ptr().add(row * steps + step);
                    let b = line::words(weight).as_ptr().add(part.words.start);
                    kernel(a, steps, b, end - step, &sink);
                }
                let direct = matches!(self.y, Destination::Sums(_)) && panel.column + width <= columns;
                if !direct {
                    self.write(s, &tile, row, rows, panel, adds);
                }
            }
        }
    }
}

/// The part of the words `next` that tile `t` of `tiles`, of `steps` steps each, prefetches: its share, or more if
/// the share is less than one line per turn, until no words are left.
#[inline(always)]
fn prefetch_share(next: &[u32], t: usize, tiles: usize, steps: usize) -> Prefetch {
    let (turns, total) = (steps / STEPS, next.len() / Line::WORDS);
    let lines = total.div_ceil((tiles * turns).max(1));
    let first = t * turns * lines;
    if first < total {
        Prefetch { from: next[first * Line::WORDS..].as_ptr(), lines }
    } else {
        Prefetch::NONE
    }
}

impl Apply<'_> {
    /// Writes a tile to its destination.
    #[inline(always)]
    fn write<S: Simd>(
        &mut self,
        s: S,
        tile: &[Line; TILE_LINES],
        row: usize,
        rows: usize,
        panel: Panel,
        add: bool,
    ) {
        let (outputs, width) = (self.layer.outputs(), panel.vectors * S::LANES);
        let columns = panel.column..outputs.min(panel.column + width);
        let x = floats(line::words(tile)).chunks_exact(width).take(rows);
        let start = row * outputs;
        match &mut self.y {
            Destination::Sums(y) => {
                for (x, y) in x.zip(y[start..].chunks_mut(outputs)) {
                    for (y, x) in y[columns.clone()].chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
                        let v = s.load(x);
                        s.store(y, if add { s.add(s.load(y), v) } else { v });
                    }
                }
            }
            Destination::Pairs(y) => store_rows::<S, _, Identity>(s, x, &mut y[start..], outputs, columns),
            Destination::Activated(activation, y) => {
                store_activated::<S, _>(s, *activation, x, &mut y[start..], outputs, columns);
            }
            Destination::ActivatedRows(activation, y) => match (y.rows_from(row), *activation) {
                (RowsMut::F32(y), f) => store_activated::<S, _>(s, f, x, y, outputs, columns),
                (RowsMut::WideBf16(y), f) => store_activated::<S, _>(s, f, x, y, outputs, columns),
                (RowsMut::Bf16(y, stride), f) => store_activated::<S, _>(s, f, x, y, stride, columns),
                (RowsMut::Int8 { .. }, _) => unreachable!("8-bit rows are quantised once they are whole"),
            },
        }
    }
}

/// Applies `activation` to `rows`, and stores them as [`store_rows`].
#[inline(always)]
fn store_activated<'a, S: Simd, T: Element>(
    s: S,
    activation: Activation,
    rows: impl Iterator<Item = &'a [f32]>,
    y: &mut [T],
    stride: usize,
    columns: Range<usize>,
) {
    match activation {
        Activation::Gelu => store_rows::<S, _, Gelu>(s, rows, y, stride, columns),
        Activation::GeluTanh => store_rows::<S, _, GeluTanh>(s, rows, y, stride, columns),
        Activation::QuickGelu => store_rows::<S, _, QuickGelu>(s, rows, y, stride, columns),
        Activation::Silu => store_rows::<S, _, Silu>(s, rows, y, stride, columns),
    }
}

/// Applies `M` to `rows`, and stores them in the `columns` of rows that are `stride` elements long.
#[inline(always)]
fn store_rows<'a, S: Simd, T: Element, M: Map>(
    s: S,
    rows: impl Iterator<Item = &'a [f32]>,
    y: &mut [T],
    stride: usize,
    columns: Range<usize>,
) {
    for (x, y) in rows.zip(y.chunks_mut(stride)) {
        store_row::<S, _, M>(s, x, &mut y[columns.clone()]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Together, tiles fetch each line of the next words once, and at most one tile's share too many.
        #[test]
        fn tiles_share_what_is_fetched(tiles in 1usize..40, steps in 4usize..600, lines in 0usize..3000) {
            let next = vec![0; Line::WORDS * lines];
            let mut fetched = Vec::new();
            let mut most = 0;
            for t in 0..tiles {
                let Prefetch { from, lines } = prefetch_share(&next, t, tiles, steps);
                let first = (from as usize).wrapping_sub(next.as_ptr() as usize) / size_of::<Line>();
                fetched.extend((0..steps / STEPS * lines).map(|i| first + i));
                most = most.max(steps / STEPS * lines);
            }
            prop_assert!(fetched.len() < lines + most.max(1));
            prop_assert!(fetched.iter().copied().take(lines).eq(0..lines));
        }
    }
}
