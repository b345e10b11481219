//! Dense linear algebra for packed token batches.
//!
//! Each kernel works on row-major rows, with the [`InstructionSet`] that suits the processor best, and has a slow,
//! direct implementation in [`mod@reference`]. Layers multiply in f32, bf16 or 8-bit integers (see [`Precision`]).
//! All `unsafe` code of vitrim is in this crate, except for that of the Python package.
//!
//! ```
//! use vitrim_kernels::Linear;
//! let layer = Linear::new(&[1.0, 2.0, 3.0, 4.0], Some(&[0.5, -0.5]), 2, 2); // weight [out, in]
//! let mut y = [0.0; 2];
//! layer.forward(&[1.0, 1.0], &mut y);
//! assert_eq!(y, [3.5, 6.5]);
//! ```
//!
//! # How to add an instruction set
//!
//! 1. One file in `src/simd`, as `avx2.rs`: a token type with a private field, `Vector` for its registers, and `define_set!`
//!    with its name, its features, how much it is preferred, and how it multiplies bf16 and 8-bit integers: by a `Dot` in registers,
//!    or, where it has tiles of its own, by a type that implements `Multiply`.
//! 2. Its `mod` in `src/simd/mod.rs`, and one line in the list of `src/instruction_set.rs`.
//!
//! Every kernel is then compiled for the set, and every property test runs on it if the processor has it. A set does
//! not implement what it cannot do: for example, a layer's `Dot` over 8-bit integers takes a set that has `DotU8S8`,
//! or one that has `ShortDotU8S8`.

mod argmax;
mod attention;
mod cosine;
mod elementwise;
mod instruction_set;
mod line;
mod linear;
pub mod memory;
mod norm;
mod peak;
mod precision;
pub mod reference;
mod rotation;
mod rows;
mod simd;
mod tasks;
mod transpose;
mod word;

pub use argmax::argmax;
pub use attention::{Attention, AttentionOptions, AttentionTaps};
pub use elementwise::{Activation, tanh};
pub use instruction_set::{InstructionSet, InstructionSetError};
pub use linear::{Epilogue, Linear, Operand, Packing};
pub use norm::LayerNorm;
pub use precision::{Precision, UnknownPrecision};
pub use rotation::ChannelPairs;
pub use rows::RowBuffer;
pub use tasks::{ROW_CHUNK, rows_per_task};
pub use word::{Bf16Pair, LineBuffer, Word};
