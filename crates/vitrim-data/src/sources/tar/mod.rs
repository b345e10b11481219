//! WebDataset's tar shards, as files with an index and as streams.

mod index;
mod member;
mod place;
mod sample;
mod stream;

pub(crate) use index::TarIndex;
pub(crate) use stream::{Input, StreamedRow, TarStream, is_compressed, is_pipe, member_origin};
