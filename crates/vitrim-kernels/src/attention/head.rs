//! Attention of one head of one image.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::product::product;
use crate::elementwise::{exp_row, max_of};
use crate::instruction_set::TILE_LINES;
use crate::line::{self, Line, floats, floats_mut, halves, halves_mut};
use crate::linear::panels::Panels;
use crate::simd::{Bf16Pairs, F32, Kernel, Multiply, Prefetch, Scales, Simd, Sink, prefetch};
use crate::word::{Word, store, words};

/// Bytes of scores that fit into the L1 cache together with a panel of keys.
const SCORE_BYTES: usize = 24 << 10;

/// Buffers of one thread, reused by its next head.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Vec<Line>,
    values: Vec<Line>,
    /// Scores of a block of queries, `[block, stride]`.
    scores: Vec<u32>,
    /// bf16 probabilities of a block.
    probabilities: Vec<u32>,
    /// For each row of a block, its maximum, then the reciprocal of its sum.
    scales: Vec<f32>,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The output of a head: rows of `row` words, of which the head owns `width` from `first` on.
///
/// Heads of one image interleave in memory, so that no slice can represent one of them. There is one `Strided` per
/// head: it is neither `Copy` nor `Clone`.
pub(super) struct Strided<W> {
    first: *mut W,
    row: usize,
    width: usize,
    rows: usize,
}

// SAFETY: a `Strided` is the sole user of its words (see `Strided::new`), wherever it is sent.
unsafe impl<W: Word> Send for Strided<W> {}

impl<W: Word> Strided<W> {
    /// The words `first .. first + width` of `rows`, which are `row` words long.
    ///
    /// # Safety
    /// `rows` outlives the value, and no other code accesses these words meanwhile.
    pub unsafe fn new(rows: *mut W, count: usize, row: usize, first: usize, width: usize) -> Self {
        debug_assert!(first + width <= row);
        // SAFETY: the caller's rows reach beyond `first`.
        Strided { first: unsafe { rows.add(first) }, row, width, rows: count }
    }

    /// The words of row `i` that the head owns.
    pub fn row(&mut self, i: usize) -> &mut [W] {
        assert!(i < self.rows, "a row of the image");
        // SAFETY: the row exists, its words belong to this value alone, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.row), self.width) }
    }
}

/// The output of the heads of all images.
pub(super) struct Places<'a, W> {
    /// The output's T rows.
    out: *mut W,
    /// Taps, `[T * heads]`: image after image, in each image head after head; or empty.
    taps: *mut f32,
    tapped: bool,
    borrowed: PhantomData<(&'a mut [W], &'a mut [f32])>,
}

// SAFETY: calls return disjoint parts (see `Places::columns` and `Places::tap`), whichever thread calls.
unsafe impl<W: Word> Sync for Places<'_, W> {}

impl<'a, W: Word> Places<'a, W> {
    /// Outputs go to `out`, T rows, and `taps: [T * heads]` or empty.
    pub fn new(out: &'a mut [W], taps: &'a mut [f32]) -> Self {
        let tapped = !taps.is_empty();
        Places { out: out.as_mut_ptr(), taps: taps.as_mut_ptr(), tapped, borrowed: PhantomData }
    }

    /// The `width` words from `first` on in rows `start .. start + n`, which are `row` words long.
    ///
    /// # Safety
    /// The rows exist, and no two calls overlap in rows and columns.
    pub unsafe fn columns(
        &self,
        start: usize,
        n: usize,
        row: usize,
        first: usize,
        width: usize,
    ) -> Strided<W> {
        // SAFETY: the caller's promise.
        unsafe { Strided::new(self.out.add(start * row), n, row, first, width) }
    }

    /// The `[n]` taps of `head` of `heads` in the image whose rows are `start .. start + n`, or none.
    ///
    /// # Safety
    /// The rows are among the T, and no two calls have the same image and head.
    pub unsafe fn tap(&self, start: usize, n: usize, head: usize, heads: usize) -> &'a mut [f32] {
        if !self.tapped {
            return &mut [];
        }
        // SAFETY: an image's taps start at `start * heads`; it has `heads` values per row, and the head's `n` are
        // among them.
        unsafe { std::slice::from_raw_parts_mut(self.taps.add(start * heads + head * n), n) }
    }
}

/// Some queries of one head over `n` tokens.
pub(super) struct Head<'a, Q, O> {
    /// `[n, stride]` words from the head's first query on; keys start `part` words further, values twice as far.
    pub qkv: &'a [Q],
    /// The same address in the head that is likely to be next, or any address: it is only prefetched, never read.
    pub next: *const Q,
    pub n: usize,
    /// The tokens to which these queries belong.
    pub queries: Range<usize>,
    pub stride: usize,
    pub part: usize,
    pub head_dim: usize,
    /// Bias of each key, `[n]`, added to every query's scores.
    pub key_bias: Option<&'a [f32]>,
    /// Output rows of the queries.
    pub out: Strided<O>,
    /// The tap, `[n]` or empty: the attention of row 0, if it is among the queries, or the mean attention that each
    /// token receives from all queries.
    pub tap: &'a mut [f32],
    pub class_token: bool,
    pub scratch: &'a mut Scratch,
}

impl<Q: Word, O: Word> Kernel for Head<'_, Q, O> {
    type Out = ();

    /// Runs the head, block by block of queries.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Head { qkv, n, stride, part, head_dim, .. } = self;
        let steps = head_dim / Q::VALUES;
        assert!(head_dim.is_multiple_of(Q::VALUES) && head_dim.is_multiple_of(O::VALUES), "whole words");
        assert!(qkv.len() >= (n - 1) * stride + 2 * part + steps, "qkv is [n, 3D]");
        let keys = Panels::new::<S>(n, steps);
        let values = Panels::new::<S>(head_dim, n.div_ceil(Q::VALUES));
        self.scratch.keys.resize(keys.lines::<S>(), Line::ZERO);
        self.scratch.values.resize(values.lines::<S>(), Line::ZERO);
        keys.pack_transposed(s, words(&qkv[part..]), stride, &mut self.scratch.keys);
        if Q::VALUES == 1 {
            let rows = floats(words(&qkv[2 * part..]));
            values.pack_rows(s, rows, stride, &mut self.scratch.values);
        } else {
            self.pack_pairs_of_values(s, values);
        }

        // Scores lie in rows of whole vectors; the probabilities in them multiply the values.
        let padded = keys.padded_columns::<S>();
        let queries = self.queries.clone();
        let tallest =
            if Q::VALUES == 1 { <F32 as Multiply<S>>::ROWS } else { <Bf16Pairs as Multiply<S>>::ROWS };
        let all = queries.len().next_multiple_of(tallest);
        let block = (SCORE_BYTES / (4 * padded)).max(tallest).min(all) / tallest * tallest;
        self.scratch.scores.resize(block * padded, 0);
        self.scratch.scales.resize(block, 0.0);
        for first in queries.clone().step_by(block) {
            let rows = block.min(queries.end - first);
            if Q::VALUES == 1 {
                self.block::<S, F32>(s, keys, values, first, rows);
            } else {
                self.block::<S, Bf16Pairs>(s, keys, values, first, rows);
            }
        }
    }
}

impl<Q: Word, O: Word> Head<'_, Q, O> {
    /// Packs values that are stored as pairs: two interleaved rows per step.
    #[inline(always)]
    fn pack_pairs_of_values<S: Simd>(&mut self, s: S, panels: Panels) {
        let (n, stride) = (self.n, self.stride);
        let values = halves(words(&self.qkv[2 * self.part..]));
        let row = |t: usize| if t < n { &values[2 * t * stride..][..self.head_dim] } else { &[] };
        for p in 0..panels.count {
            let panel = panels.panel::<S>(p);
            for step in 0..panels.steps {
                let (low, high) = (row(2 * step), row(2 * step + 1));
                for v in 0..panel.vectors {
                    let column = panel.column + v * S::LANES;
                    let high = high.get(column..).unwrap_or(&[]);
                    let value = s.interleave_bf16(&low[column..], high);
                    panels.put(s, &mut self.scratch.values, panel, step, v, value);
                }
            }
        }
    }

    /// Queries `first .. first + rows`: scores, softmax, and the sum of values.
    #[inline(always)]
    fn block<S: Simd, D: Multiply<S>>(
        &mut self,
        s: S,
        keys: Panels,
        values: Panels,
        first: usize,
        rows: usize,
    ) {
        let stride = keys.padded_columns::<S>();
        let queries = &words(self.qkv)[first * self.stride..];
        product::<S, D>(s, queries, self.stride, rows, keys, &self.scratch.keys, &mut self.scratch.scores);
        self.softmax(s, first, rows, stride, values.steps);

        let (a, a_stride) = if Q::VALUES == 1 {
            (&self.scratch.scores, stride)
        } else {
            (&self.scratch.probabilities, values.steps)
        };
        assert!(a.len() >= (rows - 1) * a_stride + values.steps, "probabilities of the block");
        let zeros = [0.0; TILE_LINES * Line::WORDS];
        let (bias, scales) = (zeros.as_ptr(), Scales::NONE);
        let tiles = rows.div_ceil(D::ROWS);
        let at = |t: usize| t * rows / tiles;
        let mut tile = [Line::ZERO; TILE_LINES];
        const { assert!(S::TILE_LINES <= TILE_LINES, "room for a tile") };
        for p in 0..values.count {
            let panel = values.panel::<S>(p);
            let width = panel.vectors * S::LANES;
            for t in 0..tiles {
                let (row, count) = (at(t), at(t + 1) - at(t));
                let kernel = D::tile(s, count, panel.vectors, false);
                // SAFETY: the lengths of the probabilities were just checked, the values hold the panel, and a tile
                // fits.
                unsafe {
                    let b = line::words(&self.scratch.values).as_ptr().add(panel.start);
                    let a = a.as_ptr().add(row * a_stride);
                    let y = line::words_mut(&mut tile).as_mut_ptr().cast();
                    let sink = Sink { y, stride: width, bias, scales, prefetch: Prefetch::NONE };
                    kernel(a, a_stride, b, values.steps, &sink);
                }
                for i in 0..count {
                    let scale = s.splat(self.scratch.scales[row + i]);
                    let out = self.out.row(first - self.queries.start + row + i);
                    let sums = floats(line::words(&tile))[i * width..][..width].chunks_exact(S::LANES);
                    for (v, sum) in sums.enumerate() {
                        store(s, out, panel.column + v * S::LANES, s.mul(s.load(sum), scale));
                    }
                }
            }
        }
    }

    /// Turns scores into probabilities, except for the division by their sum, which is applied to the output; updates
    /// the tap.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, first: usize, rows: usize, stride: usize, value_steps: usize) {
        let Head { n, key_bias, class_token, .. } = *self;
        let scale = (self.head_dim as f32).sqrt().recip();
        let Scratch { scores, probabilities, scales, .. } = &mut *self.scratch;
        let scores = &mut floats_mut(scores)[..rows * stride];
        // One loop per step, so that the dependency chains of the rows' sums and maxima overlap.
        let mut factor = scale;
        if let Some(bias) = key_bias {
            for row in scores.chunks_exact_mut(stride) {
                for (x, bias) in row[..n].chunks_mut(S::LANES).zip(bias.chunks(S::LANES)) {
                    s.store(x, s.fma(s.load(x), s.splat(scale), s.load(bias)));
                }
            }
            factor = 1.0;
        }
        for (row, max) in scores.chunks_exact(stride).zip(&mut *scales) {
            *max = max_of(s, &row[..n]);
        }
        if Q::VALUES == 2 {
            probabilities.resize(rows * value_steps, 0);
        }
        for (r, (row, scale)) in scores.chunks_exact_mut(stride).zip(&mut *scales).enumerate() {
            // Prefetch one row of the next head's queries, keys and values per row: more at once would wait for one
            // another.
            let next = self.next.wrapping_add((first + r) * self.stride);
            for part in 0..3 {
                for word in (0..self.head_dim / Q::VALUES).step_by(Line::WORDS) {
                    prefetch(next.wrapping_add(part * self.part + word).cast());
                }
            }
            let rounded = if Q::VALUES == 1 {
                &mut []
            } else {
                let words = &mut probabilities[r * value_steps..][..value_steps];
                words[value_steps - 1] = 0;
                &mut halves_mut(words)[..n]
            };
            *scale = exp_row(s, &mut row[..n], rounded, *scale, factor).recip();
        }
        if !self.tap.is_empty() {
            for (r, row) in scores.chunks_exact(stride).enumerate() {
                // The class token's tap is its own row; without a class token, each row adds its share.
                let share = match (class_token, first + r) {
                    (true, 0) => scales[r],
                    (true, _) => break,
                    (false, _) => scales[r] / n as f32,
                };
                for (tap, x) in self.tap.chunks_mut(S::LANES).zip(row[..n].chunks(S::LANES)) {
                    s.store(tap, s.fma(s.load(x), s.splat(share), s.load(tap)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A copy would give two values mutable access to the same words.
    static_assertions::assert_not_impl_any!(Strided<f32>: Clone, Copy);
}
