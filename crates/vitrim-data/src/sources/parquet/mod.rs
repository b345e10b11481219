//! Hugging Face image parquet.

mod columns;
mod file;
mod index;
mod rows;
mod table;

pub(crate) use file::RowGroup;
pub(crate) use index::ParquetIndex;
pub(super) use table::{each_path, has_paths};
