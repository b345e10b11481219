//! Rows of activations in the precision of the layer that multiplies them.

use crate::line::{self, Line, bytes_mut, floats_mut, halves_mut};
use crate::precision::WordLayout;
use crate::simd::vector::Vector;
use crate::simd::{Identity, Kernel, RowScale, Simd, WideBf16, store_row};
use crate::{InstructionSet, Precision};

/// Rows `[rows, columns]` converted once for a layer of a [`Precision`], in a reused buffer: no memory is allocated
/// once the buffer has held the largest size.
///
/// bf16 is rounded to nearest even. Each 8-bit row is quantised separately, to `scale (q - zero)` with `q` in
/// 0..=255; the range of `q` covers the row's minimum, its maximum and zero. Sets that add 8-bit products in 16 bits
/// use 0..=200. A layer accepts only rows in the range for which it was packed.
#[derive(Clone, Debug)]
pub struct RowBuffer {
    precision: Precision,
    layout: WordLayout,
    rows: usize,
    columns: usize,
    /// The words, `[rows, stride]`; each row is zero after its last element.
    lines: Vec<Line>,
    /// Quantisation scale of each row; empty unless rows are int8.
    scales: Vec<RowScale>,
    /// Buffer for f32 rows before their conversion to 8 bits.
    staging: Vec<f32>,
}

/// Elements of rows, to be written. Rows are as long as there are columns unless a variant gives the length. 8-bit
/// rows are quantised as a whole, by [`RowBuffer::quantise`].
pub(crate) enum RowsMut<'a> {
    F32(&'a mut [f32]),
    WideBf16(&'a mut [WideBf16]),
    /// The elements, and the number of elements in a row, including one that pads the last word.
    Bf16(&'a mut [u16], usize),
    /// Integers in `0..=max`.
    Int8 {
        max: u8,
    },
}

impl Default for RowBuffer {
    fn default() -> Self {
        RowBuffer {
            precision: Precision::F32,
            layout: WordLayout::F32,
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
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Number of rows.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Converts `x: [rows, columns]` for layers of `precision` by `isa`.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows.
    pub(crate) fn fill(&mut self, isa: InstructionSet, precision: Precision, x: &[f32], columns: usize) {
        assert!(columns > 0 && x.len().is_multiple_of(columns), "x is [rows, columns]");
        self.reset(isa, precision, x.len() / columns, columns);
        self.convert_from(isa, 0, x);
    }

    /// Replaces the rows from `first` on by those of `x`, converted with the instructions of `isa`.
    pub(crate) fn convert_from(&mut self, isa: InstructionSet, first: usize, x: &[f32]) {
        isa.run(Fill { x, rows: self, first });
    }

    /// Sets the shape, for layers of `precision` with `isa`; the elements are unspecified.
    pub(crate) fn reset(&mut self, isa: InstructionSet, precision: Precision, rows: usize, columns: usize) {
        (self.precision, self.layout) = (precision, isa.layout(precision));
        (self.rows, self.columns) = (rows, columns);
        let stride = self.stride();
        self.lines.resize((rows * stride).div_ceil(Line::WORDS), Line::ZERO);
        self.scales.resize(if precision == Precision::Int8 { rows } else { 0 }, RowScale::default());
        if !columns.is_multiple_of(self.layout.elements()) {
            self.words_mut().chunks_exact_mut(stride).for_each(|row| row[stride - 1] = 0);
        }
    }

    /// Words per row.
    pub(crate) fn stride(&self) -> usize {
        self.columns.div_ceil(self.layout.elements())
    }

    pub(crate) fn layout(&self) -> WordLayout {
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

    /// Takes the staging buffer, with `len` unspecified values; return it with [`RowBuffer::put_staging`].
    pub(crate) fn take_staging(&mut self, len: usize) -> Vec<f32> {
        let mut staging = std::mem::take(&mut self.staging);
        staging.resize(len, 0.0);
        staging
    }

    /// Returns the staging buffer.
    pub(crate) fn put_staging(&mut self, staging: Vec<f32>) {
        self.staging = staging;
    }

    /// The rows from `row` on, mutable.
    #[inline(always)]
    pub(crate) fn rows_from(&mut self, row: usize) -> RowsMut<'_> {
        let (layout, stride) = (self.layout, self.stride());
        let words = &mut self.words_mut()[row * stride..];
        match layout {
            WordLayout::F32 => RowsMut::F32(floats_mut(words)),
            WordLayout::WideBf16 => RowsMut::WideBf16(WideBf16::of(words)),
            WordLayout::Bf16Pair => RowsMut::Bf16(halves_mut(words), 2 * stride),
            WordLayout::Int8Quad { max } => RowsMut::Int8 { max },
        }
    }

    /// Converts a whole row.
    #[inline(always)]
    pub(crate) fn set<S: Vector>(&mut self, s: S, row: usize, x: &[f32]) {
        match self.rows_from(row) {
            RowsMut::F32(to) => to[..x.len()].copy_from_slice(x),
            RowsMut::WideBf16(to) => store_row::<S, _, Identity>(s, x, &mut to[..x.len()]),
            RowsMut::Bf16(to, _) => store_row::<S, _, Identity>(s, x, &mut to[..x.len()]),
            RowsMut::Int8 { max } => self.quantise(s, row, x, max),
        }
    }

    /// Quantises a whole row to integers in `0..=max`.
    #[inline(always)]
    pub(crate) fn quantise<S: Vector>(&mut self, s: S, row: usize, x: &[f32], max: u8) {
        let stride = self.stride();
        let columns = self.columns;
        let bytes = &mut bytes_mut(&mut self.words_mut()[row * stride..][..stride])[..columns];
        let (mut highest, mut lowest) = (s.splat(0.0), s.splat(0.0));
        for x in x.chunks(S::LANES) {
            // The zeros beyond a short chunk change nothing, because the range includes zero.
            let v = s.load(x);
            (highest, lowest) = (s.max(highest, v), s.min(lowest, v));
        }
        let highest = s.reduce_max(highest);
        let lowest = -s.reduce_max(s.sub(s.splat(0.0), lowest));
        let range = highest - lowest;
        let scale = if range > 0.0 { range / f32::from(max) } else { 1.0 };
        let inverse = scale.recip();
        let zero = (-lowest * inverse).round_ties_even();
        let (inverse, zeros) = (s.splat(inverse), s.splat(zero));
        for (q, x) in bytes.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
            s.store_u8(q, s.fma(s.load(x), inverse, zeros));
        }
        self.scales[row] = RowScale { scale, zero };
    }
}

/// Converts `x` and writes it to the rows from `first` on.
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

#[cfg(test)]
impl RowBuffer {
    /// The rows as f32, `[rows, columns]`: the values that a layer multiplies.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let mut x = Vec::with_capacity(self.rows * self.columns);
        for (r, row) in self.words().chunks(self.stride().max(1)).enumerate() {
            x.extend((0..self.columns).map(|i| match self.layout {
                WordLayout::F32 | WordLayout::WideBf16 => f32::from_bits(row[i]),
                WordLayout::Bf16Pair => f32::from_bits(u32::from(line::halves(row)[i]) << 16),
                WordLayout::Int8Quad { .. } => {
                    let RowScale { scale, zero } = self.scales[r];
                    scale * (f32::from(line::bytes(row)[i]) - zero)
                }
            }));
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::line::bytes;
    use crate::reference;

    proptest! {
        #[test]
        fn converts_as_the_reference(
            rows in 0usize..4, columns in 1usize..70, before in 1usize..70, shift in -2f32..2.0, seed: u64,
        ) {
            let mut values = reference::values(seed);
            let x: Vec<f32> = (0..rows * columns).map(|_| values() + shift).collect();
            for set in InstructionSet::supported() {
                // The previous content of the buffer must have no effect.
                let mut buffer = RowBuffer::default();
                buffer.fill(set, Precision::F32, &vec![f32::NAN; before * 3], before);
                buffer.fill(set, Precision::F32, &x, columns);
                prop_assert_eq!(&buffer.to_f32(), &x);
                buffer.fill(set, Precision::Bf16, &x, columns);
                let rounded: Vec<f32> = x.iter().map(|v| reference::bf16(*v)).collect();
                prop_assert_eq!(buffer.to_f32(), rounded);
                buffer.fill(set, Precision::Int8, &x, columns);
                for (x, q) in x.chunks(columns).zip(buffer.to_f32().chunks(columns)) {
                    let range = x.iter().fold(0f32, |m, v| m.max(*v)) - x.iter().fold(0f32, |m, v| m.min(*v));
                    let WordLayout::Int8Quad { max } = buffer.layout() else { unreachable!() };
                    let step = range / f32::from(max);
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
        for set in InstructionSet::supported() {
            let mut buffer = RowBuffer::default();
            buffer.fill(set, Precision::Bf16, &x, 5);
            let y = buffer.to_f32();
            assert!(y[0].is_nan() && y[3].is_nan(), "{set}");
            assert_eq!(y[1..3], x[1..3]);
            assert_eq!(y[4].to_bits(), x[4].to_bits());
        }
    }
}
