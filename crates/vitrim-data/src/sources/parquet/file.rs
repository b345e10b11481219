//! An open parquet file, and its row groups.

use std::path::PathBuf;

use ::parquet::file::metadata::ParquetMetaData;

/// A parquet file's footer and its image column.
#[derive(Debug)]
pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    pub(super) metadata: ParquetMetaData,
    /// The leaf column that holds encoded images.
    pub(super) image_column: usize,
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
}
