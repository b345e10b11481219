//! The input of a layer, and what is done with its output.

use crate::rows::RowBuffer;
use crate::word::{Bf16Pair, Word, Words, WordsMut};
use crate::{Activation, Precision};

/// The rows that a layer multiplies: activations, or rows that are converted already.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// Activations `[rows, in]`, which a layer of another precision converts; or pairs `[rows, in / 2]`, for a layer
    /// that multiplies pairs of bf16.
    Words(Words<'a>),
    /// Rows in the layer's precision and layout.
    Rows(&'a RowBuffer),
}

impl<'a, W: Word> From<&'a [W]> for Operand<'a> {
    fn from(x: &'a [W]) -> Self {
        Operand::Words(W::known(x))
    }
}

impl<'a> From<&'a RowBuffer> for Operand<'a> {
    fn from(x: &'a RowBuffer) -> Self {
        Operand::Rows(x)
    }
}

/// What is done with the product `x W^T + b`, tile by tile while it is in cache.
pub enum Epilogue<'a> {
    /// Writes the product to `y: [rows, out]`.
    Store(&'a mut [f32]),
    /// Writes the product, rounded to bf16, to `y: [rows, out / 2]`.
    StorePairs(&'a mut [Bf16Pair]),
    /// Adds the product to `y: [rows, out]`.
    Add(&'a mut [f32]),
    /// Writes the activation of the product to `y: [rows, out]`.
    Activate(Activation, &'a mut [f32]),
    /// Writes the activation of the product to the rows, in the precision of the next layer.
    ActivateRows(Activation, &'a mut RowBuffer, Precision),
    /// Writes the activation of the first half of the product times the second half to the rows, `[rows, out / 2]`.
    GateRows(Activation, &'a mut RowBuffer, Precision),
}

impl<'a> Epilogue<'a> {
    /// Writes the product to `y: [rows, out / VALUES]`, rounded to bf16 if the words are pairs.
    pub fn store<W: Word>(y: &'a mut [W]) -> Self {
        match W::known_mut(y) {
            WordsMut::F32(y) => Epilogue::Store(y),
            WordsMut::Pairs(y) => Epilogue::StorePairs(y),
        }
    }
}
