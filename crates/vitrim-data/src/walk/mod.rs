//! Walks the encoded images of a data set in an order.
//!
//! Files, tar shards and images in memory are shuffled as a whole, parquet by windows of row groups, streams not at
//! all.

mod parquet;
mod rows;
mod sink;
mod visit;

pub(crate) use rows::Rows;
pub(crate) use visit::Walk;
