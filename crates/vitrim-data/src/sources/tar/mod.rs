//! WebDataset's tar shards, as files that are indexed and as streams that are read front to back.

mod index;
mod sample;
mod stream;

pub(crate) use index::TarIndex;
pub(crate) use stream::{Input, StreamedRow, TarStream, is_compressed, is_pipe, member_origin};
