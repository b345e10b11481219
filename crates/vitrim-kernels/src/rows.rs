//! Rows of activations in the precision of the layer that multiplies them.

use crate::line::{self, Line};
use crate::precision::{Layout, greatest_activation};
use crate::simd::{Element, Kernel, MAX_LANES, Map, Same, Simd, WideBf16, dispatch};
use crate::word::Bf16Pair;
use crate::{Level, Precision};

/// Rows `[rows, columns]` converted once for a layer of a [`Precision`], in a buffer that is reused: nothing is
/// allocated once it has held the greatest size.
///
/// bf16 is rounded to nearest even. 8-bit rows are quantised each on its own, to `scale (q - zero)` with `q` in
/// 0..=255 and the row's least and greatest value, or zero, at its ends; in 0..=200 at levels that add 8-bit products in 16 bits.
#[derive(Clone, Debug)]
pub struct RowBuffer {
    precision: Precision,
    layout: Layout,
    rows: usize,
    columns: usize,
    /// `[rows, stride]`, each row zero after its last element.
    lines: Vec<Line>,
    /// Of each row; 8-bit rows alone have one.
    scales: Vec<RowScale>,
    /// f32 rows on their way to 8 bits.
    staging: Vec<f32>,
}

/// How an 8-bit row reads: `scale (q - zero)`, with an integer zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowScale {
    pub scale: f32,
    pub zero: f32,
}

/// The elements of rows, each as long as there are columns where no length is said; one in 8 bits is quantised whole, by
/// [`RowBuffer::quantise`].
pub(crate) enum RowsMut<'a> {
    F32(&'a mut [f32]),
    WideBf16(&'a mut [WideBf16]),
    /// And the elements of a row.
    Bf16(&'a mut [u16], usize),
    Int8,
}

/// What a layer multiplies: f32 rows as they are, or rows that were converted before.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// `[rows, in]`; a layer of another precision converts them on the way.
    F32(&'a [f32]),
    /// `[rows, in / 2]`, for a layer that multiplies pairs of bf16.
    Pairs(&'a [Bf16Pair]),
    /// Rows in the layer's precision.
    Rows(&'a RowBuffer),
}

impl<'a> From<&'a [f32]> for Operand<'a> {
    fn from(x: &'a [f32]) -> Self {
        Operand::F32(x)
    }
}

impl<'a> From<&'a RowBuffer> for Operand<'a> {
    fn from(x: &'a RowBuffer) -> Self {
        Operand::Rows(x)
    }
}

impl Default for RowBuffer {
    fn default() -> Self {
        RowBuffer {
            precision: Precision::F32,
            layout: Layout::F32,
            rows: 0,
            columns: 0,
            lines: Vec::new(),
            scales: Vec::new(),
            staging: Vec::new(),
        }
    }
}

impl RowBuffer {
    /// Precision of the rows.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Converts `x: [rows, columns]`.
    ///
    /// # Panics
    /// If `x` is not whole rows.
    pub fn fill(&mut self, precision: Precision, x: &[f32], columns: usize) {
        self.fill_at(Level::current(), precision, x, columns);
    }

    /// [`RowBuffer::fill`] with the instructions of `level`.
    ///
    /// # Panics
    /// As [`RowBuffer::fill`], or if the processor lacks the level.
    pub fn fill_at(&mut self, level: Level, precision: Precision, x: &[f32], columns: usize) {
        assert!(columns > 0 && x.len().is_multiple_of(columns), "x is [rows, columns]");
        self.reset(level, precision, x.len() / columns, columns);
        self.convert_from(level, 0, x);
    }

    /// Rows from `first` on become those of `x`, converted with the instructions of the level that they are for.
    pub(crate) fn convert_from(&mut self, level: Level, first: usize, x: &[f32]) {
        dispatch(level, Fill { x, rows: self, first });
    }

    /// The rows as f32, `[rows, columns]`: what a layer's multiplications see.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut x = Vec::with_capacity(self.rows * self.columns);
        for (r, row) in self.words().chunks(self.stride().max(1)).enumerate() {
            x.extend((0..self.columns).map(|i| match self.layout {
                Layout::F32 | Layout::WideBf16 => f32::from_bits(row[i]),
                Layout::Bf16Pair => f32::from_bits(u32::from(halves(row)[i]) << 16),
                Layout::IntQuad => {
                    let RowScale { scale, zero } = self.scales[r];
                    scale * (f32::from(bytes(row)[i]) - zero)
                }
            }));
        }
        x
    }

    /// Takes a shape, with unspecified elements, for layers of `precision` at `level`.
    pub(crate) fn reset(&mut self, level: Level, precision: Precision, rows: usize, columns: usize) {
        (self.precision, self.layout) = (precision, Layout::new(precision, level));
        (self.rows, self.columns) = (rows, columns);
        let stride = self.stride();
        self.lines.resize((rows * stride).div_ceil(MAX_LANES), Line::ZERO);
        self.scales.resize(if precision == Precision::Int8 { rows } else { 0 }, RowScale::default());
        if !columns.is_multiple_of(self.layout.elements()) {
            self.words_mut().chunks_exact_mut(stride).for_each(|row| row[stride - 1] = 0);
        }
    }

    /// Words of a row.
    pub(crate) fn stride(&self) -> usize {
        self.columns.div_ceil(self.layout.elements())
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn words(&self) -> &[u32] {
        &line::words(&self.lines)[..self.rows * self.stride()]
    }

    fn words_mut(&mut self) -> &mut [u32] {
        let words = self.rows * self.stride();
        &mut line::words_mut(&mut self.lines)[..words]
    }

    pub(crate) fn scales(&self) -> &[RowScale] {
        &self.scales
    }

    /// Takes the staging buffer, at `len` unspecified values, to be put back with [`RowBuffer::put_staging`].
    pub(crate) fn take_staging(&mut self, len: usize) -> Vec<f32> {
        let mut staging = std::mem::take(&mut self.staging);
        staging.resize(len, 0.0);
        staging
    }

    /// Gives the staging buffer back.
    pub(crate) fn put_staging(&mut self, staging: Vec<f32>) {
        self.staging = staging;
    }

    /// The rows from `row` on, to write elements to.
    #[inline(always)]
    pub(crate) fn rows_from(&mut self, row: usize) -> RowsMut<'_> {
        let (layout, stride) = (self.layout, self.stride());
        let words = &mut self.words_mut()[row * stride..];
        match layout {
            Layout::F32 => RowsMut::F32(floats_mut(words)),
            Layout::WideBf16 => RowsMut::WideBf16(WideBf16::of(words)),
            Layout::Bf16Pair => RowsMut::Bf16(halves_mut(words), 2 * stride),
            Layout::IntQuad => RowsMut::Int8,
        }
    }

    /// Converts a whole row.
    #[inline(always)]
    pub(crate) fn set<S: Simd>(&mut self, s: S, row: usize, x: &[f32]) {
        match self.rows_from(row) {
            RowsMut::F32(to) => to[..x.len()].copy_from_slice(x),
            RowsMut::WideBf16(to) => store_row::<S, _, Same>(s, x, &mut to[..x.len()]),
            RowsMut::Bf16(to, _) => store_row::<S, _, Same>(s, x, &mut to[..x.len()]),
            RowsMut::Int8 => self.quantise(s, row, x),
        }
    }

    /// Quantises a whole row to 8 bits.
    #[inline(always)]
    pub(crate) fn quantise<S: Simd>(&mut self, s: S, row: usize, x: &[f32]) {
        let stride = self.stride();
        let columns = self.columns;
        let bytes = &mut bytes_mut(&mut self.words_mut()[row * stride..][..stride])[..columns];
        let (mut greatest, mut least) = (s.splat(0.0), s.splat(0.0));
        for x in x.chunks(S::LANES) {
            // The zeros beyond a short chunk change nothing, since the range holds zero.
            let v = s.load(x);
            (greatest, least) = (s.max(greatest, v), s.min(least, v));
        }
        let greatest = s.greatest(greatest);
        let least = -s.greatest(s.sub(s.splat(0.0), least));
        let range = greatest - least;
        let scale = if range > 0.0 { range / f32::from(greatest_activation(S::SHORT_SUMS)) } else { 1.0 };
        let inverse = scale.recip();
        let zero = (-least * inverse).round_ties_even();
        let (inverse, zeros) = (s.splat(inverse), s.splat(zero));
        for (q, x) in bytes.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
            s.store_u8(q, s.fma(s.load(x), inverse, zeros));
        }
        self.scales[row] = RowScale { scale, zero };
    }
}

/// Stores what becomes of the first values of `x`, as many as `to` is long, as `T`.
#[inline(always)]
pub(crate) fn store_row<S: Simd, T: Element, M: Map>(s: S, x: &[f32], to: &mut [T]) {
    // Whole registers apart: a panel's rows are few of them, each of which would ask how long it is.
    let (x, rest) = x[..to.len()].split_at(to.len() / S::LANES * S::LANES);
    let mut vectors = to.chunks_exact_mut(S::LANES);
    for (to, x) in vectors.by_ref().zip(x.chunks_exact(S::LANES)) {
        T::store(s, to, M::map(s, s.load(x)));
    }
    if !rest.is_empty() {
        T::store(s, vectors.into_remainder(), M::map(s, s.load(rest)));
    }
}

/// Converts `x` into the rows from `first` on.
struct Fill<'a> {
    x: &'a [f32],
    rows: &'a mut RowBuffer,
    first: usize,
}

impl Kernel for Fill<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let columns = self.rows.columns;
        for (r, x) in self.x.chunks_exact(columns).enumerate() {
            self.rows.set(s, self.first + r, x);
        }
    }
}

pub(crate) fn floats(words: &[u32]) -> &[f32] {
    // SAFETY: f32 and u32 have one size and alignment, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

pub(crate) fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: as in `floats`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

pub(crate) fn halves(words: &[u32]) -> &[u16] {
    // SAFETY: a word is two u16 of any bits, and aligned for them.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
}

pub(crate) fn halves_mut(words: &mut [u32]) -> &mut [u16] {
    // SAFETY: as in `halves`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

fn bytes(words: &[u32]) -> &[u8] {
    // SAFETY: a word is four bytes of any bits.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 4 * words.len()) }
}

fn bytes_mut(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: as in `bytes`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 4 * words.len()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;
    use crate::simd::has_short_sums;

    proptest! {
        #[test]
        fn converts_as_the_reference(
            rows in 0usize..4, columns in 1usize..70, before in 1usize..70, shift in -2f32..2.0, seed: u64,
        ) {
            let mut values = reference::values(seed);
            let x: Vec<f32> = (0..rows * columns).map(|_| values() + shift).collect();
            for level in Level::supported() {
                // What the buffer held before must not show.
                let mut buffer = RowBuffer::default();
                buffer.fill_at(level, Precision::F32, &vec![f32::NAN; before * 3], before);
                buffer.fill_at(level, Precision::F32, &x, columns);
                prop_assert_eq!(&buffer.to_f32(), &x);
                buffer.fill_at(level, Precision::Bf16, &x, columns);
                let rounded: Vec<f32> = x.iter().map(|v| reference::bf16(*v)).collect();
                prop_assert_eq!(buffer.to_f32(), rounded);
                buffer.fill_at(level, Precision::Int8, &x, columns);
                for (x, q) in x.chunks(columns).zip(buffer.to_f32().chunks(columns)) {
                    let range = x.iter().fold(0f32, |m, v| m.max(*v)) - x.iter().fold(0f32, |m, v| m.min(*v));
                    let step = range / f32::from(greatest_activation(has_short_sums(level)));
                    prop_assert!(reference::max_difference(x, q) <= 0.501 * step);
                }
                let (stride, elements) = (buffer.stride(), buffer.layout().elements());
                let spare = (stride * elements - columns) * (4 / elements);
                for row in buffer.words().chunks(stride.max(1)) {
                    prop_assert!(bytes(row).iter().rev().take(spare).all(|v| *v == 0));
                }
            }
        }
    }

    #[test]
    fn bf16_keeps_what_is_not_a_number() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7fff_ffff), -0.0];
        for level in Level::supported() {
            let mut buffer = RowBuffer::default();
            buffer.fill_at(level, Precision::Bf16, &x, 5);
            let y = buffer.to_f32();
            assert!(y[0].is_nan() && y[3].is_nan(), "{level}");
            assert_eq!(y[1..3], x[1..3]);
            assert_eq!(y[4].to_bits(), x[4].to_bits());
        }
    }
}
