//! Sources of encoded images: folders, lists, Hugging Face parquet, tar shards, streams, generated images.
//!
//! [`DatasetLayout`] detects the kind of source at a path, one module indexes each kind, and a [`Store`] is an opened
//! index: rows of encoded images with names.

mod archives;
mod braces;
mod folder;
mod layout;
mod list;
mod metadata;
mod parquet;
mod split_folders;
mod split_names;
mod stamp;
mod store;
mod tar;

pub(crate) use folder::index as index_folder;
pub use folder::list_images;
pub(crate) use layout::DatasetLayout;
pub(crate) use list::{folder_of, index as index_list, index_table};
pub(crate) use metadata::with_metadata;
pub(crate) use parquet::{ParquetIndex, RowGroup};
pub use split_names::known as known_split;
pub(crate) use split_names::{STREAM, WHOLE};
pub(crate) use store::{Payload, Store, memory_name};
pub(crate) use tar::{StreamedRow, TarIndex, TarStream, member_origin};
