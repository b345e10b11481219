//! What a layer reads, and what becomes of its products.

use crate::Precision;
use crate::rows::RowBuffer;
use crate::word::{Bf16Pair, Word, Words, WordsMut};

/// The rows that a layer multiplies: activations as they are, or rows that were converted before.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// `[rows, in]`; a layer of another precision converts them on the way. Or `[rows, in / 2]` pairs, for a layer that multiplies pairs
    /// of bf16.
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

/// What becomes of `x W^T + b`, a tile at a time while it is in cache.
pub enum Epilogue<'a> {
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

impl<'a> Epilogue<'a> {
    /// `y: [rows, out / VALUES]` becomes the product, rounded where its words are pairs.
    pub fn store<W: Word>(y: &'a mut [W]) -> Self {
        match W::known_mut(y) {
            WordsMut::F32(y) => Epilogue::Store(y),
            WordsMut::Pairs(y) => Epilogue::StorePairs(y),
        }
    }
}
