//! Attention of one head of one image.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use crate::elementwise::{exp_row, greatest_of};
use crate::linear::panels::{Line, Panels, floats, words_mut, words_of};
use crate::precision::Layout;
use crate::rows::{convert_row, floats_mut, halves_mut, words};
use crate::simd::{Ahead, Bf16, Dot, F32, Kernel, MAX_LANES, Scales, Simd, Sink};

use super::product::{TILE_LINES, product};

/// Bytes of scores that stay in the L1 cache beside a panel of keys.
const SCORE_BYTES: usize = 24 << 10;

/// Buffers of one thread, reused by its next head.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Vec<Line>,
    values: Vec<Line>,
    /// Keys, then queries, `[n, steps]` in pairs of bf16.
    rounded: Vec<u32>,
    /// `[block, stride]`.
    scores: Vec<u32>,
    /// bf16 probabilities of a block.
    probabilities: Vec<u32>,
    /// Reciprocals of a block's sums.
    scales: Vec<f32>,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Where a head writes: `[n, row]` rows of which it owns `head_dim` channels from `first` on.
///
/// Heads of one image interleave in memory, so that no slice can stand for one of them.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    first: *mut f32,
    row: usize,
    width: usize,
    rows: usize,
}

// SAFETY: a `Strided` is the sole user of its channels (see `Strided::new`), wherever it is sent.
unsafe impl Send for Strided {}

impl Strided {
    /// The channels `first .. first + width` of `rows`, which are `row` values long.
    ///
    /// # Safety
    /// `rows` outlives the value, and nothing else touches these channels meanwhile.
    pub unsafe fn new(rows: *mut f32, count: usize, row: usize, first: usize, width: usize) -> Self {
        debug_assert!(first + width <= row);
        // SAFETY: the caller's rows reach beyond `first`.
        Strided { first: unsafe { rows.add(first) }, row, width, rows: count }
    }

    /// The channels of row `i`.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "a row of the image");
        // SAFETY: the row is there, its channels are this value's alone, and it is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.row), self.width) }
    }
}

/// Where the heads of all images write.
pub(super) struct Places<'a> {
    /// `[T, heads * head_dim]`.
    out: *mut f32,
    /// `[T * heads]`, image after image and in each head after head, or empty.
    taps: *mut f32,
    tapped: bool,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: what it is asked for is disjoint (see `Places::head` and `Places::tap`), whichever thread asks.
unsafe impl Sync for Places<'_> {}

impl<'a> Places<'a> {
    /// In `out: [T, heads * head_dim]`, and `taps: [T * heads]` or empty.
    pub fn new(out: &'a mut [f32], taps: &'a mut [f32]) -> Self {
        let tapped = !taps.is_empty();
        Places { out: out.as_mut_ptr(), taps: taps.as_mut_ptr(), tapped, borrowed: PhantomData }
    }

    /// The `width` channels from `first` on in rows `start .. start + n`, which are `row` values long.
    ///
    /// # Safety
    /// The rows are there, and nobody asks for the same channels of one of them again.
    pub unsafe fn channels(&self, start: usize, n: usize, row: usize, first: usize, width: usize) -> Strided {
        // SAFETY: the caller's promise.
        unsafe { Strided::new(self.out.add(start * row), n, row, first, width) }
    }

    /// The `[n]` taps of `head` of `heads` in the image whose rows are `start .. start + n`, or none.
    ///
    /// # Safety
    /// The rows are among the T, and nobody asks for the same head of the same image again.
    pub unsafe fn tap(&self, start: usize, n: usize, head: usize, heads: usize) -> &'a mut [f32] {
        if !self.tapped {
            return &mut [];
        }
        // SAFETY: an image's taps lie where its rows would, `heads` values each, and the head's among them.
        unsafe { std::slice::from_raw_parts_mut(self.taps.add(start * heads + head * n), n) }
    }
}

/// Some queries of one head over `n` tokens.
pub(super) struct Head<'a> {
    /// `[n, stride]` from the head's first query channel on: queries, keys `part` further, values twice that.
    pub qkv: &'a [f32],
    pub n: usize,
    /// Which of the tokens ask.
    pub queries: Range<usize>,
    pub stride: usize,
    pub part: usize,
    pub head_dim: usize,
    /// [`Layout::F32`] or [`Layout::Bf16Pair`].
    pub layout: Layout,
    /// `[n]`: added to every query's scores.
    pub key_bias: Option<&'a [f32]>,
    /// The rows of the queries.
    pub out: Strided,
    /// `[n]` or empty: what row 0 attends to, where it is among the queries, or what each token receives of all of them on
    /// average.
    pub tap: &'a mut [f32],
    pub class_token: bool,
    pub scratch: &'a mut Scratch,
}

impl Kernel for Head<'_> {
    type Out = ();

    /// Block of queries after block.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Head { qkv, n, stride, part, head_dim, .. } = self;
        assert!(qkv.len() >= (n - 1) * stride + 2 * part + head_dim, "qkv is [n, 3D]");
        let pairs = self.layout == Layout::Bf16Pair;
        let steps = head_dim.div_ceil(self.layout.elements());
        let keys = Panels::new::<S>(n, steps);
        let values = Panels::new::<S>(head_dim, n.div_ceil(self.layout.elements()));
        self.scratch.keys.resize(keys.lines::<S>(), Line::ZERO);
        self.scratch.values.resize(values.lines::<S>(), Line::ZERO);
        if pairs {
            self.round(s, steps);
            keys.pack_transposed(s, &self.scratch.rounded, steps, &mut self.scratch.keys);
        } else {
            keys.pack_transposed(s, words(&self.qkv[self.part..]), self.stride, &mut self.scratch.keys);
        }
        if pairs {
            self.pack_pairs_of_values(s, values);
        } else {
            values.pack_rows(s, &self.qkv[2 * self.part..], self.stride, &mut self.scratch.values);
        }

        // Scores lie in rows of whole vectors; their probabilities multiply the values.
        let stride = keys.padded_columns::<S>();
        let queries = self.queries.clone();
        let all = queries.len().next_multiple_of(S::MR);
        let block = (SCORE_BYTES / (4 * stride)).max(S::MR).min(all) / S::MR * S::MR;
        self.scratch.scores.resize(block * stride, 0);
        self.scratch.scales.resize(block, 0.0);
        for first in queries.clone().step_by(block) {
            let rows = block.min(queries.end - first);
            if pairs {
                self.block::<S, Bf16>(s, keys, values, first, rows, steps);
            } else {
                self.block::<S, F32>(s, keys, values, first, rows, self.stride);
            }
        }
    }
}

impl Head<'_> {
    /// Rounds keys, then queries (those that ask), to bf16 words, `[n, steps]` each.
    #[inline(always)]
    fn round<S: Simd>(&mut self, s: S, steps: usize) {
        let (n, d) = (self.n, self.head_dim);
        self.scratch.rounded.resize(2 * n * steps, 0);
        let (keys, queries) = self.scratch.rounded.split_at_mut(n * steps);
        for (rounded, part, tokens) in [(keys, self.part, 0..n), (queries, 0, self.queries.clone())] {
            let rows = rounded.chunks_exact_mut(steps).enumerate().take(tokens.end).skip(tokens.start);
            for (t, row) in rows {
                row[steps - 1] = 0;
                convert_row(s, &self.qkv[t * self.stride + part..][..d], &mut halves_mut(row)[..d]);
            }
        }
    }

    /// Packs the values in bf16: two interleaved rows a step.
    #[inline(always)]
    fn pack_pairs_of_values<S: Simd>(&mut self, s: S, panels: Panels) {
        let (n, stride, d) = (self.n, self.stride, self.head_dim);
        let (qkv, part) = (self.qkv, self.part);
        let row = |t: usize| &qkv[t * stride + 2 * part..][..d];
        for p in 0..panels.count {
            let panel = panels.panel::<S>(p);
            for step in 0..panels.steps {
                for v in 0..panel.vectors {
                    let columns = panel.column + v * S::LANES..;
                    let high = if 2 * step + 1 < n {
                        s.load(&row(2 * step + 1)[columns.clone()])
                    } else {
                        s.splat(0.0)
                    };
                    let value = s.pair_bf16(s.load(&row(2 * step)[columns]), high);
                    panels.put(s, &mut self.scratch.values, panel, step, v, value);
                }
            }
        }
    }

    /// Queries `first .. first + rows`: scores, softmax, and the sum of values.
    #[inline(always)]
    fn block<S: Simd, D: Dot>(
        &mut self,
        s: S,
        keys: Panels,
        values: Panels,
        first: usize,
        rows: usize,
        query_stride: usize,
    ) {
        let stride = keys.padded_columns::<S>();
        let pairs = self.layout == Layout::Bf16Pair;
        let n = self.n;
        let queries = if pairs {
            &self.scratch.rounded[(n + first) * query_stride..]
        } else {
            &words(self.qkv)[first * query_stride..]
        };
        product::<S, D>(queries, query_stride, rows, keys, &self.scratch.keys, &mut self.scratch.scores);
        self.softmax(s, first, rows, stride, values.steps);

        let (a, a_stride) =
            if pairs { (&self.scratch.probabilities, values.steps) } else { (&self.scratch.scores, stride) };
        assert!(a.len() >= (rows - 1) * a_stride + values.steps, "probabilities of the block");
        let zeros = [0.0; TILE_LINES * MAX_LANES];
        let (bias, quantised) = (zeros.as_ptr(), Scales::NONE);
        let tiles = rows.div_ceil(S::MR);
        let at = |t: usize| t * rows / tiles;
        let mut tile = [Line::ZERO; TILE_LINES];
        assert!(S::MR * S::NV * S::LANES <= TILE_LINES * MAX_LANES, "room for a tile");
        for p in 0..values.count {
            let panel = values.panel::<S>(p);
            let width = panel.vectors * S::LANES;
            for t in 0..tiles {
                let (row, count) = (at(t), at(t + 1) - at(t));
                let kernel = S::tile::<D>(count, panel.vectors, false);
                // SAFETY: the probabilities were just checked, the values hold the panel, and a tile fits.
                unsafe {
                    let b = words_of(&self.scratch.values).add(panel.start);
                    let a = a.as_ptr().add(row * a_stride);
                    let y = words_mut(&mut tile).cast();
                    let sink = Sink { y, stride: width, bias, quantised, ahead: Ahead::NONE };
                    kernel(a, a_stride, b, values.steps, &sink);
                }
                for i in 0..count {
                    let scale = s.splat(self.scratch.scales[row + i]);
                    let out = &mut self.out.row(first - self.queries.start + row + i)[panel.column..];
                    let end = out.len().min(width);
                    let sums = &floats(&tile)[i * width..][..end];
                    for (out, sum) in out[..end].chunks_mut(S::LANES).zip(sums.chunks(S::LANES)) {
                        s.store(out, s.mul(s.load(sum), scale));
                    }
                }
            }
        }
    }

    /// Scores become probabilities, but for the division by their sum, which is left to the output; the tap
    /// takes what it is due.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, first: usize, rows: usize, stride: usize, value_steps: usize) {
        let Head { n, key_bias, class_token, layout, .. } = *self;
        let scale = (self.head_dim as f32).sqrt().recip();
        let Scratch { scores, probabilities, scales, .. } = &mut *self.scratch;
        let scores = &mut floats_mut(scores)[..rows * stride];
        // One loop a step, so that the rows' sums and maxima, each a chain of its own, overlap.
        let mut factor = scale;
        if let Some(bias) = key_bias {
            for row in scores.chunks_exact_mut(stride) {
                for (x, bias) in row[..n].chunks_mut(S::LANES).zip(bias.chunks(S::LANES)) {
                    s.store(x, s.fma(s.load(x), s.splat(scale), s.load(bias)));
                }
            }
            factor = 1.0;
        }
        for (row, greatest) in scores.chunks_exact(stride).zip(&mut *scales) {
            *greatest = greatest_of(s, &row[..n]);
        }
        for (row, scale) in scores.chunks_exact_mut(stride).zip(&mut *scales) {
            *scale = exp_row(s, &mut row[..n], *scale, factor).recip();
        }
        if !self.tap.is_empty() {
            for (r, row) in scores.chunks_exact(stride).enumerate() {
                // A class token's tap is its one row; else each row adds its share.
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
        if layout == Layout::Bf16Pair {
            probabilities.resize(rows * value_steps, 0);
            for (row, to) in scores.chunks_exact(stride).zip(probabilities.chunks_exact_mut(value_steps)) {
                to[value_steps - 1] = 0;
                convert_row(s, &row[..n], &mut halves_mut(to)[..n]);
            }
        }
    }
}
