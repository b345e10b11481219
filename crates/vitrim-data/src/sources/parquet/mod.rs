//! Hugging Face image parquet.

mod columns;
mod file;
mod index;
mod rows;

pub(crate) use file::RowGroup;
pub(crate) use index::ParquetIndex;
