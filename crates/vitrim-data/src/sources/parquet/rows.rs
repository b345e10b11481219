//! Rows of one column of one row group, a few at a time.

use std::fs::File;
use std::sync::Arc;

use ::parquet::column::reader::ColumnReaderImpl;
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::RowGroupReader;
use ::parquet::file::serialized_reader::SerializedRowGroupReader;

use super::file::{ParquetFile, RowGroup};
use crate::error::{DataError, one_line};

/// Reads the images of one row group front to back. Holds one page (about 1 MiB as pyarrow writes
/// them) at a time.
pub(crate) struct GroupReader<'a> {
    column: Column<'a, ByteArrayType>,
}

impl<'a> GroupReader<'a> {
    pub(super) fn open(file: &'a ParquetFile, group: &RowGroup) -> Result<Self, DataError> {
        Ok(Self { column: Column::open(file, group, file.image_column)? })
    }

    /// Skips `rows` rows; whole pages are not decompressed if their headers allow that.
    pub(crate) fn skip(&mut self, rows: usize) -> Result<(), DataError> {
        self.column.skip(rows)
    }

    /// The encoded bytes of the next `rows` rows, `None` for a null.
    pub(crate) fn read(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>, DataError> {
        self.column.read(rows)
    }
}

/// All values of an integer column in one row group; nulls are `None`.
pub(super) fn read_integers(
    file: &ParquetFile,
    group: &RowGroup,
    column: usize,
) -> Result<Vec<Option<i64>>, DataError> {
    let stored = file.metadata.row_group(group.number).column(column).column_type();
    if stored == ::parquet::basic::Type::INT32 {
        let values = Column::<Int32Type>::open(file, group, column)?.read(group.rows)?;
        Ok(values.into_iter().map(|value| value.map(i64::from)).collect())
    } else {
        Column::<Int64Type>::open(file, group, column)?.read(group.rows)
    }
}

/// A flat column: nulls are allowed, repetition is not.
struct Column<'a, T: DataType> {
    file: &'a ParquetFile,
    row_group: usize,
    /// The definition level of a present value; 0 if nulls are not allowed.
    present: i16,
    reader: ColumnReaderImpl<T>,
}

impl<'a, T: DataType> Column<'a, T> {
    fn open(file: &'a ParquetFile, group: &RowGroup, column: usize) -> Result<Self, DataError> {
        let opened = File::open(&file.path).map_err(|cause| DataError::io(&file.path, cause))?;
        let damaged = |error| damaged(file, group.number, error);
        let rows = SerializedRowGroupReader::new(
            Arc::new(opened),
            file.metadata.row_group(group.number),
            file.metadata.page_index_for_row_group(group.number),
            Arc::new(ReaderProperties::builder().build()),
        )
        .map_err(damaged)?;
        let pages = rows.get_column_page_reader(column).map_err(damaged)?;
        let described = file.metadata.file_metadata().schema_descr().column(column);
        let present = described.max_def_level();
        let reader = ColumnReaderImpl::<T>::new(described, pages);
        Ok(Self { file, row_group: group.number, present, reader })
    }

    fn skip(&mut self, rows: usize) -> Result<(), DataError> {
        let skipped = self.reader.skip_records(rows).map_err(|error| self.damaged(error))?;
        self.expect(skipped, rows)
    }

    fn read(&mut self, rows: usize) -> Result<Vec<Option<T::T>>, DataError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, ..) = self
            .reader
            .read_records(rows, Some(&mut levels), None, &mut values)
            .map_err(|error| self.damaged(error))?;
        self.expect(read, rows)?;
        if self.present == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(levels.iter().map(|&level| if level == self.present { values.next() } else { None }).collect())
    }

    fn expect(&self, got: usize, rows: usize) -> Result<(), DataError> {
        if got == rows {
            return Ok(());
        }
        Err(self.damaged(ParquetError::EOF(format!("{got} rows where {rows} were promised"))))
    }

    fn damaged(&self, error: ParquetError) -> DataError {
        damaged(self.file, self.row_group, error)
    }
}

fn damaged(file: &ParquetFile, row_group: usize, error: ParquetError) -> DataError {
    DataError::DamagedParquet { path: file.path.clone(), row_group, reason: one_line(error) }
}
