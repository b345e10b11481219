//! Rows of one column of one row group, a few at a time.

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
use crate::decoding::caught;
use crate::error::{DataError, one_line};
use crate::limits::MAX_TEXT_COLUMN_BYTES;
use crate::sources::store::Payload;

/// Labels that are decoded together.
const AT_ONCE: usize = 1 << 13;

/// Reads the images of one row group front to back. Holds one page (about 1 MiB as pyarrow writes
/// them) at a time.
pub(crate) struct GroupReader<'a> {
    file: &'a ParquetFile,
    group: RowGroup,
    bytes: Option<Column<'a, ByteArrayType>>,
    /// Opened for the first row without bytes.
    paths: Option<Column<'a, ByteArrayType>>,
    /// The next row of the data set.
    row: usize,
    /// Number of rows before it that `paths` has not passed.
    path_lag: usize,
}

/// The image of a row.
pub(crate) enum StoredImage {
    Bytes(ByteArray),
    /// The image is not in the column of bytes.
    Elsewhere(Payload),
}

impl From<StoredImage> for Payload {
    fn from(image: StoredImage) -> Self {
        match image {
            StoredImage::Bytes(bytes) => Self::Encoded(Arc::from(bytes.data())),
            StoredImage::Elsewhere(payload) => payload,
        }
    }
}

impl<'a> GroupReader<'a> {
    pub(super) fn open(file: &'a ParquetFile, group: &RowGroup) -> Result<Self, DataError> {
        let bytes = file.images.bytes.map(|leaf| Column::open(file, group, leaf)).transpose()?;
        Ok(Self { file, group: *group, bytes, paths: None, row: group.first_row, path_lag: 0 })
    }

    /// Skips `rows` rows; whole pages are not decompressed if their headers allow that.
    pub(crate) fn skip(&mut self, rows: usize) -> Result<(), DataError> {
        if let Some(bytes) = &mut self.bytes {
            bytes.skip(rows)?;
        }
        self.row += rows;
        self.path_lag += rows;
        Ok(())
    }

    /// The images of the next `rows` rows.
    pub(crate) fn read(&mut self, rows: usize) -> Result<Vec<StoredImage>, DataError> {
        let stored = match &mut self.bytes {
            Some(bytes) => bytes.read(rows)?,
            None => vec![None; rows],
        };
        let paths = match stored.iter().any(Option::is_none) {
            true => self.read_paths(rows)?,
            false => Vec::new(),
        };
        self.path_lag += if paths.is_empty() { rows } else { 0 };
        let mut paths = paths.into_iter();
        let images = (self.row..).zip(stored).map(|(row, bytes)| match (bytes, paths.next().flatten()) {
            (Some(bytes), _) => StoredImage::Bytes(bytes),
            (None, Some(path)) => StoredImage::Elsewhere(self.file.image_at(row, path.data())),
            (None, None) => StoredImage::Elsewhere(Payload::Null),
        });
        let images = images.collect();
        self.row += rows;
        Ok(images)
    }

    /// The paths of the next `rows` rows; empty if there is no such column.
    fn read_paths(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>, DataError> {
        let Some(leaf) = self.file.images.path else { return Ok(Vec::new()) };
        if self.paths.is_none() {
            self.paths = Some(Column::open(self.file, &self.group, leaf)?);
        }
        let Some(paths) = &mut self.paths else { return Ok(Vec::new()) };
        paths.skip(std::mem::take(&mut self.path_lag))?;
        paths.read(rows)
    }
}

/// Gives `take` all values of a column of bytes in one row group; nulls are `None`.
pub(super) fn each_text(
    file: &ParquetFile,
    group: &RowGroup,
    column: usize,
    take: impl FnMut(Option<ByteArray>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    check_size(file, group, column)?;
    Column::<ByteArrayType>::open(file, group, column)?.each(group.rows, take)
}

/// Gives `take` all values of a column of numbers, truth values or text in one row group, as words; nulls are `None`.
pub(super) fn each_word(
    file: &ParquetFile,
    group: &RowGroup,
    column: usize,
    mut take: impl FnMut(Option<String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    fn words<T: DataType>(
        file: &ParquetFile,
        group: &RowGroup,
        column: usize,
        word: impl Fn(T::T) -> String,
        take: &mut dyn FnMut(Option<String>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        Column::<T>::open(file, group, column)?.each(group.rows, |value| take(value.map(&word)))
    }
    check_size(file, group, column)?;
    let take = &mut take;
    let described = file.metadata.file_metadata().schema_descr().column(column);
    match described.physical_type() {
        _ if described.max_rep_level() > 0 => Err(no_label(file, column)),
        Type::INT32 => words::<Int32Type>(file, group, column, |number| number.to_string(), take),
        Type::INT64 => words::<Int64Type>(file, group, column, |number| number.to_string(), take),
        Type::FLOAT => words::<FloatType>(file, group, column, |number| number.to_string(), take),
        Type::DOUBLE => words::<DoubleType>(file, group, column, |number| number.to_string(), take),
        Type::BOOLEAN => words::<BoolType>(file, group, column, |truth| truth.to_string(), take),
        Type::BYTE_ARRAY => {
            let text = |text: ByteArray| String::from_utf8_lossy(text.data()).into_owned();
            words::<ByteArrayType>(file, group, column, text, take)
        }
        _ => Err(no_label(file, column)),
    }
}

/// Refuses a column of labels or paths whose pages are too large together.
fn check_size(file: &ParquetFile, group: &RowGroup, column: usize) -> Result<(), DataError> {
    let stored = file.metadata.row_group(group.number).column(column);
    let bytes = u64::try_from(stored.uncompressed_size()).unwrap_or(u64::MAX);
    if bytes <= MAX_TEXT_COLUMN_BYTES {
        return Ok(());
    }
    let limit = MAX_TEXT_COLUMN_BYTES >> 20;
    let what = format!("column `{}` takes more than {limit} MiB", stored.column_descr().path().string());
    Err(DataError::LargeParquet { path: file.path.clone(), row_group: group.number, what })
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
        let opened = file.stamp.reopen(&file.path)?;
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
        let skipped =
            unless_panicked(|| self.reader.skip_records(rows)).map_err(|error| self.damaged(error))?;
        self.expect(skipped, rows)
    }

    /// Gives `take` the next `rows` values, a few of which are in memory at a time.
    fn each(
        &mut self,
        rows: usize,
        mut take: impl FnMut(Option<T::T>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for first in (0..rows).step_by(AT_ONCE) {
            self.read(AT_ONCE.min(rows - first))?.into_iter().try_for_each(&mut take)?;
        }
        Ok(())
    }

    fn read(&mut self, rows: usize) -> Result<Vec<Option<T::T>>, DataError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, ..) =
            unless_panicked(|| self.reader.read_records(rows, Some(&mut levels), None, &mut values))
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

/// What `work` of the parquet crate gives. On some damaged pages it panics; its reader is not used after that.
fn unless_panicked<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    caught(work).unwrap_or_else(|panic| Err(ParquetError::General(panic)))
}

fn damaged(file: &ParquetFile, row_group: usize, error: ParquetError) -> DataError {
    DataError::DamagedParquet { path: file.path.clone(), row_group, reason: one_line(error) }
}
