//! An open parquet file, and its row groups.

use std::path::{Path, PathBuf};

use ::parquet::file::metadata::ParquetMetaData;

use super::columns::ImageColumns;
use crate::error::DataError;
use crate::limits::MAX_PATH_BYTES;
use crate::sources::stamp::Stamp;
use crate::sources::store::Payload;

/// A parquet file's footer and its image columns.
#[derive(Debug)]
pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    pub(super) metadata: ParquetMetaData,
    /// Of the file whose footer this is.
    pub(super) stamp: Stamp,
    /// The leaf columns that hold the images.
    pub(super) images: ImageColumns,
    /// The data set's row for row 0 of this file.
    pub(super) first_row: usize,
}

/// One row group: rows that are compressed together and read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowGroup {
    /// Index of its file among those of the split.
    pub(super) file: usize,
    /// Its number in the file.
    pub(super) number: usize,
    /// Its first row, counted over all files.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Size of its images in bytes, encoded as images but not compressed by parquet.
    pub bytes: u64,
}

impl ParquetFile {
    /// `folder/file.parquet, row n`: the location of the data set's `row`.
    pub(super) fn origin(&self, row: usize) -> String {
        format!("{}, row {}", self.path.display(), row - self.first_row)
    }

    /// The image of the data set's `row`, which is not in this file but at `path`: relative to the file's folder,
    /// unless absolute. A URL is refused; so is longer text, which is an image in another form, such as Base64.
    pub(super) fn image_at(&self, row: usize, path: &[u8]) -> Payload {
        let refused = |what: String| Payload::Refused(DataError::bad_image(self.origin(row), what));
        let Ok(text) = std::str::from_utf8(path) else {
            return refused("its path is not UTF-8 text".into());
        };
        if text.is_empty() {
            return Payload::Null;
        }
        if text.len() > MAX_PATH_BYTES {
            return refused(format!("{} bytes of text instead of an image or a path", text.len()));
        }
        if text.contains("://") || text.starts_with("data:") {
            return refused(format!(
                "the file holds the URL {text} instead of the image; download the images first"
            ));
        }
        Payload::File(self.path.parent().unwrap_or(Path::new("")).join(text))
    }
}
