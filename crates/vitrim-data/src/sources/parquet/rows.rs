//! Rows of one column of one row group, a few at a time.

use std::fs::File;
use std::sync::Arc;

use ::parquet::basic::Type;
use ::parquet::column::reader::ColumnReaderImpl;
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
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

/// All values of a column of numbers, truth values or text in one row group, as words; nulls are `None`.
pub(super) fn read_words(
    file: &ParquetFile,
    group: &RowGroup,
    column: usize,
) -> Result<Vec<Option<String>>, DataError> {
    fn words<T: DataType>(
        file: &ParquetFile,
        group: &RowGroup,
        column: usize,
        word: impl Fn(T::T) -> String,
    ) -> Result<Vec<Option<String>>, DataError> {
        let values = Column::<T>::open(file, group, column)?.read(group.rows)?;
        Ok(values.into_iter().map(|value| value.map(&word)).collect())
    }
    let described = file.metadata.file_metadata().schema_descr().column(column);
    match described.physical_type() {
        _ if described.max_rep_level() > 0 => Err(no_label(file, column)),
        Type::INT32 => words::<Int32Type>(file, group, column, |number| number.to_string()),
        Type::INT64 => words::<Int64Type>(file, group, column, |number| number.to_string()),
        Type::FLOAT => words::<FloatType>(file, group, column, |number| number.to_string()),
        Type::DOUBLE => words::<DoubleType>(file, group, column, |number| number.to_string()),
        Type::BOOLEAN => words::<BoolType>(file, group, column, |truth| truth.to_string()),
        Type::BYTE_ARRAY => words::<ByteArrayType>(file, group, column, |text| {
            String::from_utf8_lossy(text.data()).into_owned()
        }),
        _ => Err(no_label(file, column)),
    }
}

fn no_label(file: &ParquetFile, column: usize) -> DataError {
    let described = file.metadata.file_metadata().schema_descr().column(column);
    DataError::LabelColumn {
        path: file.path.clone(),
        column: described.path().string(),
        found: described.physical_type().to_string(),
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
