//! A linear layer with its weight packed once, in the layout that the GEMM micro-kernel reads.

mod apply;
pub(crate) mod panels;

use std::cell::RefCell;

use crate::line::Line;
use crate::precision::Layout;
use crate::rows::{Operand, RowBuffer};
use crate::simd::{Kernel, Simd, dispatch};
use crate::word::{Bf16Pair, words};
use crate::{Level, Precision, reference};
use panels::Panels;

/// How a [`Linear`] is packed, beside its weight and bias.
#[derive(Clone, Copy, Debug)]
pub struct Packing<'a> {
    /// In what it multiplies.
    pub precision: Precision,
    /// With which instructions.
    pub level: Level,
    /// LayerScale `[out]`, folded into weight and bias: the layer is `gamma (x W^T + b)`.
    pub gamma: Option<&'a [f32]>,
}

impl Packing<'_> {
    /// `precision` at the level in force, without LayerScale.
    pub fn new(precision: Precision) -> Self {
        Packing { precision, level: Level::current(), gamma: None }
    }
}

/// `y = x W^T + b`.
pub struct Linear {
    inputs: usize,
    precision: Precision,
    level: Level,
    layout: Layout,
    panels: Panels,
    weight: Vec<Line>,
    /// `[out]`, zero where the layer has none.
    bias: Vec<f32>,
    /// Of 8-bit weights.
    quantised: Option<Quantised>,
}

/// What undoes the quantisation of 8-bit weights, `[out]` each.
struct Quantised {
    scales: Vec<f32>,
    /// Sums of each output's integers: a row's zero times these is what its zero added.
    sums: Vec<f32>,
}

/// What becomes of `x W^T + b`, a tile at a time while it is in cache.
pub enum Output<'a> {
    /// `y: [rows, out]` becomes it.
    Store(&'a mut [f32]),
    /// `y: [rows, out / 2]` becomes it, rounded to bf16.
    StorePairs(&'a mut [Bf16Pair]),
    /// It is added to `y: [rows, out]`.
    Add(&'a mut [f32]),
    /// `y: [rows, out]` becomes its GELU.
    Gelu(&'a mut [f32]),
    /// The rows become its GELU, in the precision of the layer that is to multiply them.
    GeluRows(&'a mut RowBuffer, Precision),
    /// The rows become its SwiGLU, `[rows, out / 2]`: SiLU of its first half times its second.
    SwigluRows(&'a mut RowBuffer, Precision),
}

thread_local! {
    /// f32 rows converted for a layer of another precision.
    static CONVERTED: RefCell<RowBuffer> = RefCell::default();
}

impl Linear {
    /// Packs `weight: [out, in]` row-major and `bias: [out]` in f32, at the level in force.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, outputs: usize, inputs: usize) -> Self {
        Linear::packed(weight, bias, outputs, inputs, Packing::new(Precision::F32))
    }

    /// Packs `weight: [out, in]` row-major and `bias: [out]` as `packing` says.
    ///
    /// # Panics
    /// If a length does not match, a dimension is zero, or the processor lacks the level.
    pub fn packed(
        weight: &[f32],
        bias: Option<&[f32]>,
        outputs: usize,
        inputs: usize,
        packing: Packing<'_>,
    ) -> Self {
        assert!(inputs > 0 && outputs > 0, "a layer has inputs and outputs");
        assert_eq!(weight.len(), outputs * inputs, "weight is [out, in]");
        assert!(bias.is_none_or(|b| b.len() == outputs), "bias is [out]");
        assert!(packing.gamma.is_none_or(|g| g.len() == outputs), "gamma is [out]");
        let mut bias = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        let Packing { precision, level, gamma } = packing;
        let scaled = gamma.map(|gamma| {
            bias.iter_mut().zip(gamma).for_each(|(b, g)| *b *= g);
            let rows = weight.chunks_exact(inputs).zip(gamma);
            rows.flat_map(|(row, g)| row.iter().map(move |w| w * g)).collect::<Vec<f32>>()
        });
        let weight = scaled.as_deref().unwrap_or(weight);
        dispatch(level, Pack { weight, bias, outputs, inputs, precision, level })
    }

    /// Inputs a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs a row.
    pub fn outputs(&self) -> usize {
        self.panels.columns
    }

    /// In what it multiplies.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of the packed weight, with its bias and scales.
    pub fn bytes(&self) -> usize {
        let scales = self.quantised.as_ref().map_or(0, |q| q.scales.len() + q.sums.len());
        size_of_val(self.weight.as_slice()) + size_of::<f32>() * (self.bias.len() + scales)
    }

    /// With which instructions it multiplies.
    pub fn level(&self) -> Level {
        self.level
    }

    /// `y = x W^T + b` with `x: [rows, in]` and `y: [rows, out]`.
    ///
    /// # Panics
    /// If the lengths are not whole rows, or not as many.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.apply(x, Output::Store(y));
    }

    /// `y += x W^T + b`: a residual branch's last layer.
    ///
    /// # Panics
    /// As [`Linear::forward`].
    pub fn forward_add(&self, x: &[f32], y: &mut [f32]) {
        self.apply(x, Output::Add(y));
    }

    /// Multiplies the rows of `x`, on this thread.
    ///
    /// # Panics
    /// If `x` is not whole rows of this layer's inputs, the output not as many rows, converted rows not of
    /// the layer's precision or for another level, pairs are given or wanted that its level does not multiply, or SwiGLU or pairs are
    /// wanted of an odd number of outputs.
    pub fn apply<'a>(&self, x: impl Into<Operand<'a>>, output: Output<'_>) {
        self.apply_before(None, x, output);
    }

    /// [`Linear::apply`], and the beginning of `then`, which this thread is likely to apply after it, comes into cache meanwhile.
    ///
    /// # Panics
    /// As [`Linear::apply`].
    pub fn apply_before<'a>(&self, then: Option<&Linear>, x: impl Into<Operand<'a>>, output: Output<'_>) {
        match x.into() {
            Operand::F32(x) => {
                assert!(x.len().is_multiple_of(self.inputs), "x is [rows, in]");
                if self.precision == Precision::F32 {
                    self.multiply(then, words(x), &[], output);
                } else {
                    CONVERTED.with_borrow_mut(|rows| {
                        rows.fill_at(self.level, self.precision, x, self.inputs);
                        self.multiply(then, rows.words(), rows.scales(), output);
                    });
                }
            }
            Operand::Pairs(x) => {
                assert!((2 * x.len()).is_multiple_of(self.inputs), "x is [rows, in / 2]");
                assert_eq!(self.layout, Layout::Bf16Pair, "a layer that multiplies pairs");
                assert!(self.inputs.is_multiple_of(2), "pairs of inputs");
                self.multiply(then, words(x), &[], output);
            }
            Operand::Rows(rows) => {
                assert_eq!(rows.columns(), self.inputs, "x is [rows, in]");
                assert_eq!(rows.precision(), self.precision, "x is in the layer's precision");
                assert_eq!(rows.layout(), self.layout, "x is as the layer's level multiplies it");
                self.multiply(then, rows.words(), rows.scales(), output);
            }
        }
    }
}

/// Packs a layer at a level.
struct Pack<'a> {
    weight: &'a [f32],
    bias: Vec<f32>,
    outputs: usize,
    inputs: usize,
    precision: Precision,
    level: Level,
}

impl Kernel for Pack<'_> {
    type Out = Linear;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Linear {
        let Pack { weight, mut bias, outputs, inputs, precision, level } = self;
        let layout = Layout::new(precision, level);
        let panels = Panels::new::<S>(outputs, inputs.div_ceil(layout.elements()));
        let mut lines = vec![Line::ZERO; panels.lines::<S>()];
        let padded = panels.padded_columns::<S>();
        bias.resize(padded, 0.0);
        let mut quantised = None;
        match precision {
            Precision::F32 => panels.pack_transposed(s, words(weight), inputs, &mut lines),
            Precision::Bf16 => {
                let mut rows = RowBuffer::default();
                rows.fill_at(level, precision, weight, inputs);
                panels.pack_transposed(s, rows.words(), rows.stride(), &mut lines);
            }
            Precision::Int8 => {
                let mut q =
                    Quantised { scales: Vec::with_capacity(padded), sums: Vec::with_capacity(padded) };
                let mut rows = Vec::with_capacity(outputs * panels.steps);
                for row in weight.chunks_exact(inputs) {
                    let (integers, scale) = reference::quantise(row, S::SHORT_SUMS);
                    let sum: i32 = integers.iter().map(|v| i32::from(*v)).sum();
                    q.scales.push(scale);
                    q.sums.push(sum as f32);
                    rows.extend(integers.chunks(4).map(|quad| {
                        let mut bytes = [0; 4];
                        bytes.iter_mut().zip(quad).for_each(|(b, v)| *b = *v as u8);
                        u32::from_le_bytes(bytes)
                    }));
                }
                panels.pack_transposed(s, &rows, panels.steps, &mut lines);
                q.scales.resize(padded, 0.0);
                q.sums.resize(padded, 0.0);
                quantised = Some(q);
            }
        }
        Linear { inputs, precision, level, layout, panels, weight: lines, bias, quantised }
    }
}

#[cfg(test)]
mod tests;
