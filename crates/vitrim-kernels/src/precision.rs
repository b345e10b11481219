//! In what the layers multiply, and how that is spelt.

use std::fmt;
use std::str::FromStr;

use crate::Level;

/// In what a layer multiplies; sums, biases and what is stored are f32 all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// bf16, weights and activations rounded to nearest even.
    Bf16,
    /// 8-bit integers: weights symmetric, a scale each output; activations a scale and a zero each row,
    /// found as they come.
    Int8,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];
}

/// How elements of a [`Precision`] lie in the 32-bit words that a [`Level`] multiplies: as many in a word as one of its
/// instructions takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One f32.
    F32,
    /// One bf16, widened to f32: as quick as f32, where no instruction takes two bf16.
    WideBf16,
    /// Two bf16, the first in the low half.
    Bf16Pair,
    /// Four 8-bit integers, the first lowest.
    IntQuad,
}

impl Layout {
    /// Of `precision` at `level`.
    pub fn new(precision: Precision, level: Level) -> Self {
        match (precision, level) {
            (Precision::F32, _) => Layout::F32,
            (Precision::Bf16, Level::Scalar | Level::Avx512Bf16Vnni) => Layout::Bf16Pair,
            (Precision::Bf16, _) => Layout::WideBf16,
            (Precision::Int8, _) => Layout::IntQuad,
        }
    }

    /// Elements of a word.
    pub fn elements(self) -> usize {
        match self {
            Layout::F32 | Layout::WideBf16 => 1,
            Layout::Bf16Pair => 2,
            Layout::IntQuad => 4,
        }
    }
}

/// The greatest 8-bit activation. Where sums are short ([`crate::simd::Simd::SHORT_SUMS`]), weights and activations share the room of an
/// i16; a ViT's activations, of a wider range beside most of their values than its weights, have the greater part.
pub(crate) const fn greatest_activation(short_sums: bool) -> u8 {
    if short_sums { 200 } else { u8::MAX }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        })
    }
}

/// Not a name of a [`Precision`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPrecision(String);

impl fmt::Display for UnknownPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown dtype '{}'; use f32, bf16 or int8", self.0)
    }
}

impl std::error::Error for UnknownPrecision {}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    /// Reads what [`Precision`]'s `Display` writes.
    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        let known = Precision::ALL.into_iter().find(|precision| precision.to_string() == name);
        known.ok_or_else(|| UnknownPrecision(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        let unknown = "fp16".parse::<Precision>().unwrap_err();
        assert_eq!(unknown.to_string(), "unknown dtype 'fp16'; use f32, bf16 or int8");
    }
}
