//! One parquet file that was opened, and its row groups.

use std::path::PathBuf;

use ::parquet::file::metadata::ParquetMetaData;

/// One parquet file's footer and where its images are.
#[derive(Debug)]
pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    pub(super) metadata: ParquetMetaData,
    /// The leaf column that holds encoded images.
    pub(super) image_column: usize,
    /// The data set's row that is this file's row 0.
    pub(super) first_row: usize,
}

/// One row group: rows that are compressed together and read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowGroup {
    /// Position of its file among those of the split.
    pub(super) file: usize,
    /// Its number in the file.
    pub(super) number: usize,
    /// Its first row, counted over all files.
    pub first_row: usize,
    /// How many rows it has.
    pub rows: usize,
    /// Bytes of its images, encoded as images but not compressed by parquet.
    pub bytes: u64,
}

impl ParquetFile {
    /// `folder/file.parquet, row n`: where to find the data set's `row` again.
    pub(super) fn origin(&self, row: usize) -> String {
        format!("{}, row {}", self.path.display(), row - self.first_row)
    }
}
