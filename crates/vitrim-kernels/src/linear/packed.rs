//! A layer's weight, packed once in the order in which tiles read it.

use super::panels::Panels;
use super::quantise::quantise;
use crate::line::{self, Line};
use crate::precision::WordLayout;
use crate::rows::RowBuffer;
use crate::simd::{Kernel, Simd};
use crate::word::words;
use crate::{InstructionSet, Precision};

/// Largest number of words of a row that are multiplied in one go, so that a block can have as many rows as a chunk.
/// It depends on the layer alone: a row's sums do not depend on the other rows.
pub(super) const SLICE_STEPS: usize = 1024;

/// The packed weight of a layer.
pub(super) struct Packed {
    pub inputs: usize,
    pub precision: Precision,
    pub isa: InstructionSet,
    pub layout: WordLayout,
    pub panels: Panels,
    pub weight: Vec<Line>,
    /// Bias, `[out]` and padded; zero if the layer has none.
    pub bias: Vec<f32>,
    /// Scales and sums of 8-bit weights.
    pub quantised: Option<Quantised>,
}

/// Undoes the quantisation of 8-bit weights: `[out]` each, padded.
pub(super) struct Quantised {
    pub scales: Vec<f32>,
    /// Sum of each output's integers: a row's zero times it is subtracted from the output.
    pub sums: Vec<f32>,
}

impl Packed {
    /// Outputs per row.
    pub fn outputs(&self) -> usize {
        self.panels.columns
    }

    /// Bytes of the packed weight, with its bias and scales.
    pub fn bytes(&self) -> usize {
        let scales = self.quantised.as_ref().map_or(0, |q| q.scales.len() + q.sums.len());
        size_of_val(self.weight.as_slice()) + size_of::<f32>() * (self.bias.len() + scales)
    }

    /// The words that are multiplied first.
    #[inline(always)]
    pub fn beginning<S: Simd>(&self) -> &[u32] {
        &line::words(&self.weight)[self.panels.part::<S>(0, self.panels.steps.div_ceil(SLICE_STEPS)).words]
    }
}

/// Packs `weight: [out, in]` and `bias: [out]` for layers of `precision`.
pub(super) struct Pack<'a> {
    pub weight: &'a [f32],
    pub bias: Vec<f32>,
    pub outputs: usize,
    pub inputs: usize,
    pub precision: Precision,
    pub isa: InstructionSet,
}

impl Kernel for Pack<'_> {
    type Out = Packed;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Packed {
        let Pack { weight, mut bias, outputs, inputs, precision, isa } = self;
        let layout = isa.layout(precision);
        let panels = Panels::new::<S>(outputs, inputs.div_ceil(layout.elements()));
        let mut lines = vec![Line::ZERO; panels.lines::<S>()];
        let padded = panels.padded_columns::<S>();
        bias.resize(padded, 0.0);
        let mut quantised = None;
        match layout {
            WordLayout::F32 => panels.pack_transposed(s, words(weight), inputs, &mut lines),
            WordLayout::WideBf16 | WordLayout::Bf16Pair => {
                let mut rows = RowBuffer::default();
                rows.fill(isa, precision, weight, inputs);
                panels.pack_transposed(s, rows.words(), rows.stride(), &mut lines);
            }
            WordLayout::Int8Quad { max } => {
                let mut q =
                    Quantised { scales: Vec::with_capacity(padded), sums: Vec::with_capacity(padded) };
                let (mut rows, mut integers) = (Vec::with_capacity(outputs * panels.steps), Vec::new());
                for row in weight.chunks_exact(inputs) {
                    let scale = quantise(row, max, &mut integers);
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
        Packed { inputs, precision, isa, layout, panels, weight: lines, bias, quantised }
    }
}
