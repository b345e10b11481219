//! The loops around the micro-kernel, and what happens to each tile that it leaves.

use std::ops::Range;

use super::panels::{Panel, Panels, Part};
use super::{Linear, Output};
use crate::Precision;
use crate::elementwise::{Gelu, swiglu_row};
use crate::line::{self, Line};
use crate::precision::Layout;
use crate::rows::{RowBuffer, RowScale, RowsMut, floats, halves_mut, store_row};
use crate::simd::{
    Ahead, Bf16, Dot, Element, F32, Kernel, MAX_LANES, Map, STEPS, Same, Scales, Simd, Sink, U8S8, dispatch,
};
use crate::word::{multiplies_pairs, words_mut};

/// Bytes of activations that stay in a 1 MiB L2 cache beside a panel of the weight.
const ROW_BLOCK_BYTES: usize = 512 << 10;

/// Words of a row at most that are multiplied in one go, so that a block has as many rows as a chunk. It hangs on the layer alone:
/// whatever rows stand beside it, a row's sums are the same.
const SLICE_STEPS: usize = 1024;

/// The bias of all slices of a row's words but the first.
static NO_BIAS: [Line; TILE_LINES] = [Line::ZERO; TILE_LINES];

/// Bytes of f32 rows that stay in a 512 KiB L2 cache, shared with another thread at that, on their way to where they go.
const STAGING_BYTES: usize = 256 << 10;

/// Lines that hold the largest tile of any level.
const TILE_LINES: usize = 8 * 3;

impl Linear {
    /// `words` holds rows in the layer's precision, `scales` what undoes the quantisation of 8-bit ones.
    pub(super) fn multiply(
        &self,
        then: Option<&Linear>,
        words: &[u32],
        scales: &[RowScale],
        output: Output<'_>,
    ) {
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
            Output::StorePairs(y) => {
                assert_eq!(2 * y.len(), rows * self.outputs(), "y is [rows, out / 2]");
                assert!(self.outputs().is_multiple_of(2), "pairs of outputs");
                assert!(multiplies_pairs(self.level), "a level that knows pairs");
                (Target::Pairs(halves_mut(words_mut(y))), false)
            }
            Output::Gelu(y) => {
                check(y);
                (Target::Gelu(y), false)
            }
            Output::GeluRows(next, Precision::Int8) => {
                // A row's scale is known once it is whole.
                next.reset(self.level, Precision::Int8, rows, self.outputs());
                return self.staged(
                    then,
                    words,
                    scales,
                    next,
                    |then, words, scales, staging, next, first| {
                        self.multiply(then, words, scales, Output::Gelu(staging));
                        next.convert_from(self.level, first, staging);
                    },
                );
            }
            Output::SwigluRows(next, precision) => {
                assert!(self.outputs().is_multiple_of(2), "SwiGLU has two halves");
                // The halves of a row lie in different tiles.
                next.reset(self.level, precision, rows, self.outputs() / 2);
                return self.staged(
                    then,
                    words,
                    scales,
                    next,
                    |then, words, scales, staging, next, first| {
                        self.multiply(then, words, scales, Output::Store(staging));
                        dispatch(self.level, Swiglu { x: staging, rows: next, first });
                    },
                );
            }
            Output::GeluRows(next, precision) => {
                next.reset(self.level, precision, rows, self.outputs());
                (Target::GeluRows(next), false)
            }
        };
        dispatch(self.level, Apply { layer: self, then, words, rows, scales, y, add });
    }

    /// The words that it multiplies first.
    #[inline(always)]
    fn beginning<S: Simd>(&self) -> &[u32] {
        &line::words(&self.weight)[self.panels.part::<S>(0, self.panels.steps.div_ceil(SLICE_STEPS)).words]
    }

    /// Calls `each` for blocks of rows: the layer that comes after them, their words and scales, room for as many rows of outputs in
    /// f32, `next`, and which of its rows the first is.
    fn staged(
        &self,
        then: Option<&Linear>,
        words: &[u32],
        scales: &[RowScale],
        next: &mut RowBuffer,
        each: impl Fn(Option<&Linear>, &[u32], &[RowScale], &mut [f32], &mut RowBuffer, usize),
    ) {
        let (steps, outputs) = (self.panels.steps, self.outputs());
        let rows = words.len() / steps;
        let blocks = (4 * rows * outputs).div_ceil(STAGING_BYTES).max(1);
        let block = rows.div_ceil(blocks).max(1);
        let mut staging = next.take_staging(block * outputs);
        for (i, words) in words.chunks(block * steps).enumerate() {
            let (first, count) = (i * block, words.len() / steps);
            // 8-bit rows alone have scales.
            let scales = scales.get(first..first + count).unwrap_or(scales);
            let then = if first + count < rows { Some(self) } else { then };
            each(then, words, scales, &mut staging[..count * outputs], next, first);
        }
        next.put_staging(staging);
    }
}

/// SwiGLU of `x: [rows, 2 columns]`, to rows from `first` on.
struct Swiglu<'a> {
    x: &'a mut [f32],
    rows: &'a mut RowBuffer,
    first: usize,
}

impl Kernel for Swiglu<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * self.rows.columns();
        for (r, x) in self.x.chunks_exact_mut(width).enumerate() {
            let x = swiglu_row(s, x);
            self.rows.set(s, self.first + r, x);
        }
    }
}

/// [`Output`] with its shape checked.
enum Target<'a> {
    /// Each tile goes straight to its place.
    Sums(&'a mut [f32]),
    /// bf16.
    Pairs(&'a mut [u16]),
    Gelu(&'a mut [f32]),
    GeluRows(&'a mut RowBuffer),
}

struct Apply<'a> {
    layer: &'a Linear,
    /// Which layer is likely to come next.
    then: Option<&'a Linear>,
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
    /// L2 beside it. Since each block reads the whole weight, it must have many rows: long ones pass in slices, whose sums
    /// add up where they go.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Linear { panels, weight, bias, quantised, layout, .. } = self.layer;
        let Panels { steps, count, columns, .. } = *panels;
        let padded = panels.padded_columns::<S>();
        assert!(self.words.len() >= self.rows * steps, "x is [rows, in]");
        assert!(weight.len() >= panels.lines::<S>() && bias.len() >= padded, "packed at this level");
        assert!(S::MR * S::NV * S::LANES <= TILE_LINES * MAX_LANES, "room for a tile");
        if let Some(q) = quantised {
            assert!(q.scales.len() >= padded && q.sums.len() >= padded, "scales of all outputs");
            assert!(self.scales.len() >= self.rows, "a scale a row");
        }
        let sums = matches!(self.y, Target::Sums(_)) && quantised.is_none();
        let slices = if sums { steps.div_ceil(SLICE_STEPS) } else { 1 };
        let tallest = match layout {
            Layout::F32 | Layout::WideBf16 => F32::rows::<S>(),
            Layout::Bf16Pair => Bf16::rows::<S>(),
            Layout::IntQuad => U8S8::rows::<S>(),
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
                self.then.map_or(&[][..], Linear::beginning::<S>)
            };
            let adds = self.add || step > 0;
            for t in 0..tiles {
                // As even as can be, so that the last is not too small to keep the processor busy.
                let at = |t: usize| first + t * (last - first) / tiles;
                let (row, rows) = (at(t), at(t + 1) - at(t));
                // What needs more than the micro-kernel does, or is narrower than it writes, goes by the tile.
                let (y, stride, add) = match &mut self.y {
                    Target::Sums(y) if panel.column + width <= columns => {
                        (y[row * columns + panel.column..].as_mut_ptr(), columns, adds)
                    }
                    _ => (line::words_mut(&mut tile).as_mut_ptr().cast(), width, false),
                };
                let kernel = match layout {
                    Layout::F32 | Layout::WideBf16 => S::tile::<F32>(rows, panel.vectors, add),
                    Layout::Bf16Pair => S::tile::<Bf16>(rows, panel.vectors, add),
                    Layout::IntQuad => S::tile::<U8S8>(rows, panel.vectors, add),
                };
                let quantised = quantised.as_ref().map_or(Scales::NONE, |q| Scales {
                    rows: self.scales[row..].as_ptr(),
                    columns: q.scales[panel.column..].as_ptr(),
                    sums: q.sums[panel.column..].as_ptr(),
                });
                let bias = if step > 0 { floats(line::words(&NO_BIAS)) } else { &bias[panel.column..] };
                let ahead = ahead(next, t, tiles, end - step);
                let sink = Sink { y, stride, bias: bias.as_ptr(), quantised, ahead };
                // SAFETY: `rows` rows of `steps` words start at `row`, the weight holds the panel, and the slice
                // lies within both; biases and scales are padded to whole vectors, as wide as a panel at least;
                // y or the tile holds the rows that are written: as asserted above, and by who checked y.
                unsafe {
                    let a = self.words.as_ptr().add(row * steps + step);
                    let b = line::words(weight).as_ptr().add(part.words.start);
                    kernel(a, steps, b, end - step, &sink);
                }
                let direct = matches!(self.y, Target::Sums(_)) && panel.column + width <= columns;
                if !direct {
                    self.take(s, &tile, row, rows, panel, adds);
                }
            }
        }
    }
}

/// What tile `t` of `tiles`, of `steps` steps each, fetches of the words `next` that are multiplied after all of them: its share, or
/// more where that is less than a line a turn, until nothing is left.
#[inline(always)]
fn ahead(next: &[u32], t: usize, tiles: usize, steps: usize) -> Ahead {
    let (turns, total) = (steps / STEPS, next.len() / MAX_LANES);
    let lines = total.div_ceil((tiles * turns).max(1));
    let first = t * turns * lines;
    if first < total { Ahead { from: next[first * MAX_LANES..].as_ptr(), lines } } else { Ahead::NONE }
}

impl Apply<'_> {
    /// Takes a tile to where it belongs.
    #[inline(always)]
    fn take<S: Simd>(
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
            Target::Sums(y) => {
                for (x, y) in x.zip(y[start..].chunks_mut(outputs)) {
                    for (y, x) in y[columns.clone()].chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
                        let v = s.load(x);
                        s.store(y, if add { s.add(s.load(y), v) } else { v });
                    }
                }
            }
            Target::Pairs(y) => store_rows::<S, _, Same>(s, x, &mut y[start..], outputs, columns),
            Target::Gelu(y) => store_rows::<S, _, Gelu>(s, x, &mut y[start..], outputs, columns),
            Target::GeluRows(y) => match y.rows_from(row) {
                RowsMut::F32(y) => store_rows::<S, _, Gelu>(s, x, y, outputs, columns),
                RowsMut::WideBf16(y) => store_rows::<S, _, Gelu>(s, x, y, outputs, columns),
                RowsMut::Bf16(y, stride) => store_rows::<S, _, Gelu>(s, x, y, stride, columns),
                RowsMut::Int8 => unreachable!("8-bit rows are quantised once they are whole"),
            },
        }
    }
}

/// Stores what becomes of `rows` in the `columns` of rows that are `stride` elements long.
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
        /// Together, tiles fetch each line of what comes next once, and less than a tile's share too many.
        #[test]
        fn tiles_share_what_is_fetched(tiles in 1usize..40, steps in 4usize..600, lines in 0usize..3000) {
            let next = vec![0; MAX_LANES * lines];
            let mut fetched = Vec::new();
            let mut most = 0;
            for t in 0..tiles {
                let Ahead { from, lines } = ahead(&next, t, tiles, steps);
                let first = (from as usize).wrapping_sub(next.as_ptr() as usize) / size_of::<Line>();
                fetched.extend((0..steps / STEPS * lines).map(|i| first + i));
                most = most.max(steps / STEPS * lines);
            }
            prop_assert!(fetched.len() < lines + most.max(1));
            prop_assert!(fetched.iter().copied().take(lines).eq(0..lines));
        }
    }
}
