//! Dense linear algebra for packed token batches.
//!
//! Each kernel works on row-major rows, picks the widest SIMD instructions of the machine at run time (see
//! [`Level`]), and has a slow obvious [`mod@reference`] beside it. Layers multiply in f32, bf16 or 8-bit
//! integers (see [`Precision`]). All `unsafe` code of vitrim lives in this crate.
//!
//! ```
//! use vitrim_kernels::Linear;
//! let layer = Linear::new(&[1.0, 2.0, 3.0, 4.0], Some(&[0.5, -0.5]), 2, 2); // weight [out, in]
//! let mut y = [0.0; 2];
//! layer.forward(&[1.0, 1.0], &mut y);
//! assert_eq!(y, [3.5, 6.5]);
//! ```

pub mod attention;
pub mod cosine;
pub mod elementwise;
pub mod greatest;
pub mod level;
pub mod line;
pub mod linear;
pub mod mapped;
pub mod memory;
pub mod norm;
pub mod peak;
pub mod precision;
pub mod reference;
pub mod rows;
mod simd;
pub mod word;

pub use attention::{Attention, AttentionOptions, AttentionTaps};
pub use cosine::{centred_cosine, normalise_rows};
pub use elementwise::{gelu, gelu_and_slope, gelu_at, softmax, softmax_at, softmax_backward, tanh};
pub use greatest::{greatest_of_rows, greatest_sum};
pub use level::{Level, LevelError};
pub use line::LineBuffer;
pub use linear::{Linear, Output, Packing};
pub use mapped::MappedFile;
pub use norm::LayerNorm;
pub use peak::fma_peak;
pub use precision::{Precision, UnknownPrecision};
pub use rows::{Operand, RowBuffer};
pub use word::{Bf16Pair, Word, multiplies_pairs};

/// Rows that one thread carries through a chain of row-wise operations: small enough that the widest
/// intermediate of a DeiT-S chunk (128 x 1536 f32) stays in a 1 MiB L2 cache, large enough for full
/// GEMM speed.
pub const ROW_CHUNK: usize = 128;

/// How many rows each task shall take so that `rows` spread evenly over all threads in chunks of at
/// most [`ROW_CHUNK`].
pub fn rows_per_task(rows: usize) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = rows.div_ceil(ROW_CHUNK).next_multiple_of(threads).max(1);
    rows.div_ceil(tasks).max(1)
}
