//! The data types of a layer's multiplication, their names, and their layout in memory.

use std::fmt;
use std::str::FromStr;

/// Data type of a layer's multiplication. Sums and biases are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// bf16, weights and activations rounded to nearest even.
    Bf16,
    /// 8-bit integers: weights symmetric, with one scale per output; activations with a scale and a zero per row,
    /// computed at run time.
    Int8,
}

impl Precision {
    /// All data types.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];
}

/// Layout of the elements of rows and weights in 32-bit words, and range of integers. Rows and a weight are
/// multiplied only if their layouts are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordLayout {
    /// One f32.
    F32,
    /// One bf16, widened to f32.
    WideBf16,
    /// Two bf16, the first in the low half.
    Bf16Pair,
    /// Four 8-bit integers, the first in the lowest byte. Activations lie in `0..=max`.
    Int8Quad { max: u8 },
}

impl WordLayout {
    /// Elements per word.
    pub fn elements(self) -> usize {
        match self {
            WordLayout::F32 | WordLayout::WideBf16 => 1,
            WordLayout::Bf16Pair => 2,
            WordLayout::Int8Quad { .. } => 4,
        }
    }
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

/// The text is not the name of a [`Precision`].
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

    /// Reads the output of [`Precision`]'s `Display`.
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
