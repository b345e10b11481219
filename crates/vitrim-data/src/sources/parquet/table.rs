//! A parquet file as a table of paths and labels, without images.

use std::path::Path;

use ::parquet::basic::Type;

use super::columns::ImageColumns;
use super::file::{ParquetFile, RowGroup};
use super::index::footer;
use super::rows::each_word;
use crate::error::DataError;
use crate::labels::{LABEL_FIELDS, StatedLabels};
use crate::limits::{MAX_LABEL_WORD_BYTES, MAX_PATH_BYTES, MAX_TABLE_PATH_BYTES, MAX_TABLE_ROWS};

/// Whether the parquet file at `path` has a column called as one of `fields`, of text, at its top.
///
/// # Errors
///
/// If it cannot be read, or is no parquet file.
pub(in crate::sources) fn has_paths(path: &Path, fields: &[&str]) -> Result<bool, DataError> {
    let (metadata, _) = footer(path)?;
    let columns = metadata.file_metadata().schema_descr().columns();
    Ok(columns.iter().any(|column| {
        matches!(column.path().parts(), [only] if fields.contains(&only.as_str()))
            && column.physical_type() == Type::BYTE_ARRAY
    }))
}

/// Gives `take` the path (in the first column of `fields`; empty if there is none) and the label of each row. Returns whether
/// there is a column of labels; `None` if there is none of paths.
///
/// # Errors
///
/// If the file cannot be read, is damaged or too large, or has labels of a kind that is no label.
pub(in crate::sources) fn each_path(
    path: &Path,
    fields: &[&str],
    mut take: impl FnMut(String, Option<&str>),
) -> Result<Option<bool>, DataError> {
    let (metadata, stamp) = footer(path)?;
    let columns = metadata.file_metadata().schema_descr().columns();
    let column = |fields: &[&str]| {
        fields.iter().find_map(|field| columns.iter().position(|column| column.path().parts() == [*field]))
    };
    let (paths, labels) = (column(fields), column(&LABEL_FIELDS));
    let Some(paths) = paths else { return Ok(None) };
    let groups = metadata.num_row_groups();
    let file = ParquetFile {
        path: path.to_path_buf(),
        metadata,
        stamp,
        images: ImageColumns { bytes: None, path: Some(paths) },
        first_row: 0,
    };
    let (mut first_row, mut bytes) = (0, 0);
    for number in 0..groups {
        let rows = usize::try_from(file.metadata.row_group(number).num_rows()).unwrap_or(0);
        let large =
            |what: String| DataError::LargeParquet { path: path.to_path_buf(), row_group: number, what };
        if rows > MAX_TABLE_ROWS - first_row {
            return Err(large(format!("more than {MAX_TABLE_ROWS} rows in all")));
        }
        let group = RowGroup { file: 0, number, first_row, rows, bytes: 0 };
        // One a row: a word that many rows share is there once.
        let mut words = StatedLabels::default();
        if let Some(column) = labels {
            each_word(&file, &group, column, |label| {
                words.push(label.as_deref());
                match words.word_bytes() > MAX_LABEL_WORD_BYTES {
                    true => {
                        Err(large(format!("its labels take more than {} MiB", MAX_LABEL_WORD_BYTES >> 20)))
                    }
                    false => Ok(()),
                }
            })?;
        }
        let mut row = 0;
        each_word(&file, &group, paths, |path| {
            let path = path.unwrap_or_default();
            if path.len() > MAX_PATH_BYTES {
                return Err(large(format!("a path of {} bytes, more than {MAX_PATH_BYTES}", path.len())));
            }
            bytes += path.len();
            if bytes > MAX_TABLE_PATH_BYTES {
                return Err(large(format!("its paths take more than {} MiB", MAX_TABLE_PATH_BYTES >> 20)));
            }
            take(path, words.word(row));
            row += 1;
            Ok(())
        })?;
        first_row += rows;
    }
    Ok(Some(labels.is_some()))
}
