//! A linear layer with its weight packed once, in the layout that the GEMM micro-kernel reads.

mod apply;
mod epilogue;
mod packed;
pub(crate) mod panels;
mod quantise;

use std::cell::RefCell;

use crate::precision::WordLayout;
use crate::rows::RowBuffer;
use crate::word::{Words, words};
use crate::{InstructionSet, Precision};
pub use epilogue::{Epilogue, Operand};
use packed::{Pack, Packed};

/// How a [`Linear`] is packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing<'a> {
    /// Data type of the multiplication.
    pub precision: Precision,
    /// Instruction set of the kernels.
    pub isa: InstructionSet,
    /// LayerScale `[out]`, folded into weight and bias: the layer is `gamma (x W^T + b)`.
    pub gamma: Option<&'a [f32]>,
}

impl Packing<'_> {
    /// `precision`, with the current instruction set and without LayerScale.
    pub fn new(precision: Precision) -> Self {
        Packing { precision, isa: InstructionSet::current(), gamma: None }
    }
}

/// `y = x W^T + b`.
pub struct Linear(Packed);

thread_local! {
    /// f32 rows converted for a layer of another precision.
    static CONVERTED: RefCell<RowBuffer> = RefCell::default();
}

impl Linear {
    /// Packs `weight: [out, in]` row-major and `bias: [out]` in f32, for the current instruction set.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, outputs: usize, inputs: usize) -> Self {
        Linear::packed(weight, bias, outputs, inputs, Packing::new(Precision::F32))
    }

    /// Packs `weight: [out, in]` row-major and `bias: [out]` according to `packing`.
    ///
    /// # Panics
    /// If a length does not match, or a dimension is zero.
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
        let Packing { precision, isa, gamma } = packing;
        let scaled = gamma.map(|gamma| {
            bias.iter_mut().zip(gamma).for_each(|(b, g)| *b *= g);
            let rows = weight.chunks_exact(inputs).zip(gamma);
            rows.flat_map(|(row, g)| row.iter().map(move |w| w * g)).collect::<Vec<f32>>()
        });
        let weight = scaled.as_deref().unwrap_or(weight);
        Linear(isa.run(Pack { weight, bias, outputs, inputs, precision, isa }))
    }

    /// Inputs per row.
    pub fn inputs(&self) -> usize {
        self.0.inputs
    }

    /// Outputs per row.
    pub fn outputs(&self) -> usize {
        self.0.outputs()
    }

    /// Bytes of the packed weight, with its bias and scales.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// `y = x W^T + b` with `x: [rows, in]` and `y: [rows, out]`.
    ///
    /// # Panics
    /// If the lengths are not whole rows, or the numbers of rows differ.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.apply(x, Epilogue::Store(y));
    }

    /// `y += x W^T + b`: a residual branch's last layer.
    ///
    /// # Panics
    /// As [`Linear::forward`].
    pub fn forward_add(&self, x: &[f32], y: &mut [f32]) {
        self.apply(x, Epilogue::Add(y));
    }

    /// Multiplies the rows of `x`, on this thread.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows of this layer's inputs, or the output has another number of rows; if
    /// converted rows have another precision, or the layout or integer range of another instruction set; if `x` holds
    /// pairs that the layer does not multiply; or if a gate or pairs are wanted and the number of outputs is odd.
    pub fn apply<'a>(&self, x: impl Into<Operand<'a>>, epilogue: Epilogue<'_>) {
        self.apply_prefetching(None, x, epilogue);
    }

    /// [`Linear::apply`]; meanwhile, the beginning of `next`, the layer that this thread is likely to apply next, is
    /// prefetched into cache.
    ///
    /// # Panics
    /// As [`Linear::apply`].
    pub fn apply_prefetching<'a>(
        &self,
        next: Option<&Linear>,
        x: impl Into<Operand<'a>>,
        epilogue: Epilogue<'_>,
    ) {
        let (layer, next) = (&self.0, next.map(|next| &next.0));
        let inputs = layer.inputs;
        match x.into() {
            Operand::Words(Words::F32(x)) => {
                assert!(x.len().is_multiple_of(inputs), "x is [rows, in]");
                if layer.precision == Precision::F32 {
                    layer.multiply(next, words(x), &[], epilogue);
                } else {
                    CONVERTED.with_borrow_mut(|rows| {
                        rows.fill(layer.isa, layer.precision, x, inputs);
                        layer.multiply(next, rows.words(), rows.scales(), epilogue);
                    });
                }
            }
            Operand::Words(Words::Pairs(x)) => {
                assert!((2 * x.len()).is_multiple_of(inputs), "x is [rows, in / 2]");
                assert_eq!(layer.layout, WordLayout::Bf16Pair, "a layer that multiplies pairs");
                assert!(inputs.is_multiple_of(2), "pairs of inputs");
                layer.multiply(next, words(x), &[], epilogue);
            }
            Operand::Rows(rows) => {
                assert_eq!(rows.columns(), inputs, "x is [rows, in]");
                assert_eq!(rows.precision(), layer.precision, "x is in the layer's precision");
                assert_eq!(rows.layout(), layer.layout, "x is as the layer's instruction set multiplies it");
                layer.multiply(next, rows.words(), rows.scales(), epilogue);
            }
        }
    }
}

#[cfg(test)]
mod tests;
