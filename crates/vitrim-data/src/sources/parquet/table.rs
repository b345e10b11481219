//! A parquet file as a table of paths and labels, without images.

use std::path::Path;

use ::parquet::basic::Type;

use super::columns::ImageColumns;
use super::file::{ParquetFile, RowGroup};
use super::index::footer;
use super::rows::read_words;
use crate::error::DataError;
use crate::labels::LABEL_FIELDS;

/// The rows of a table of image files.
pub(in crate::sources) struct PathTable {
    /// The path and the label of each row.
    pub rows: Vec<(String, Option<String>)>,
    /// Whether there is a column of labels.
    pub labelled: bool,
}

/// Whether the parquet file at `path` has a column called as one of `fields`, of text, at its top.
///
/// # Errors
///
/// If it cannot be read, or is no parquet file.
pub(in crate::sources) fn has_paths(path: &Path, fields: &[&str]) -> Result<bool, DataError> {
    let metadata = footer(path)?;
    let columns = metadata.file_metadata().schema_descr().columns();
    Ok(columns.iter().any(|column| {
        matches!(column.path().parts(), [only] if fields.contains(&only.as_str()))
            && column.physical_type() == Type::BYTE_ARRAY
    }))
}

/// Reads the paths in the first column of `fields`, and the labels; `None` if there is no such column.
///
/// # Errors
///
/// If the file cannot be read or is damaged, or has labels of a kind that is no label.
pub(in crate::sources) fn read_paths(path: &Path, fields: &[&str]) -> Result<Option<PathTable>, DataError> {
    let metadata = footer(path)?;
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
        images: ImageColumns { bytes: None, path: Some(paths) },
        first_row: 0,
    };
    let mut rows = Vec::new();
    for number in 0..groups {
        let count = usize::try_from(file.metadata.row_group(number).num_rows()).unwrap_or(0);
        let group = RowGroup { file: 0, number, first_row: rows.len(), rows: count, bytes: 0 };
        let paths = read_words(&file, &group, paths)?;
        let labels = match labels {
            Some(column) => read_words(&file, &group, column)?,
            None => vec![None; paths.len()],
        };
        rows.extend(paths.into_iter().map(Option::unwrap_or_default).zip(labels));
    }
    Ok(Some(PathTable { rows, labelled: labels.is_some() }))
}
