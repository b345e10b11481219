//! What the columns of a Hugging Face image parquet mean. Source: the `datasets` library, whose
//! `Image` feature is a struct of `bytes` and `path`, and which writes its features as JSON under the
//! footer's `huggingface` key.

use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::schema::types::ColumnDescPtr;
use serde_json::{Map, Value};

use crate::error::DataError;
use crate::labels::LABEL_FIELDS;
use crate::sources::list::PATH_FIELDS;

/// Names of image columns, if the footer does not name the column.
const IMAGE_COLUMNS: [&str; 8] = ["img", "image", "images", "jpg", "jpeg", "png", "webp", "image_bytes"];
/// Names of columns that hold URLs of images.
const URL_COLUMNS: [&str; 3] = ["url", "image_url", "img_url"];

/// The leaf columns that hold a file's images; at least one of them is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageColumns {
    /// Encoded images.
    pub(super) bytes: Option<usize>,
    /// Paths of image files, for rows without bytes.
    pub(super) path: Option<usize>,
}

impl ImageColumns {
    /// The column whose size is that of the images.
    pub(super) fn main(self) -> usize {
        self.bytes.or(self.path).unwrap_or(0)
    }
}

/// The description of the columns by the `datasets` library; empty if it did not write the file.
pub(super) struct HfFeatures(Map<String, Value>);

impl HfFeatures {
    pub(super) fn of(metadata: &ParquetMetaData) -> Self {
        let footer = metadata.file_metadata().key_value_metadata();
        let json = footer
            .into_iter()
            .flatten()
            .find(|pair| pair.key == "huggingface")
            .and_then(|pair| pair.value.as_deref())
            .and_then(|text| serde_json::from_str::<Value>(text).ok());
        let features =
            json.as_ref().and_then(|json| json.pointer("/info/features").or_else(|| json.get("features")));
        Self(features.and_then(Value::as_object).cloned().unwrap_or_default())
    }

    /// The columns of feature `kind`, then `usual` ones, the most reliable first.
    fn columns<'a>(&'a self, kind: &'a str, usual: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let is_kind = move |name: &str| {
            self.0.get(name).is_some_and(|feature| feature.get("_type").and_then(Value::as_str) == Some(kind))
        };
        // Of several columns of one kind, one with a usual name.
        let best = usual.iter().copied().filter(move |name| is_kind(name));
        let other = self.0.keys().map(String::as_str).filter(move |name| is_kind(name));
        best.chain(other).chain(usual.iter().copied())
    }

    /// The leaf columns that hold the images: encoded, or else the paths of their files.
    pub(super) fn image_columns(
        &self,
        path: &Path,
        metadata: &ParquetMetaData,
    ) -> Result<ImageColumns, DataError> {
        let columns = metadata.file_metadata().schema_descr().columns();
        let find = |name: &str, inner: Option<&str>, is_text: Option<bool>| {
            columns.iter().position(|column| {
                let named = match (column.path().parts(), inner) {
                    ([only], None) => only == name,
                    ([outer, leaf], Some(inner)) => outer == name && leaf == inner,
                    _ => false,
                };
                named
                    && column.physical_type() == Type::BYTE_ARRAY
                    && column.max_rep_level() == 0
                    && is_text.is_none_or(|wanted| is_text_column(column) == wanted)
            })
        };
        let stored = self.columns("Image", &IMAGE_COLUMNS).find_map(|name| {
            let nested =
                ImageColumns { bytes: find(name, Some("bytes"), None), path: find(name, Some("path"), None) };
            match nested.bytes {
                Some(_) => Some(nested),
                None => {
                    find(name, None, Some(false)).map(|bytes| ImageColumns { bytes: Some(bytes), path: None })
                }
            }
        });
        let of_files = || {
            let names = self.columns("Image", &IMAGE_COLUMNS).chain(PATH_FIELDS).chain(URL_COLUMNS);
            let path = names.into_iter().find_map(|name| find(name, None, Some(true)));
            path.map(|path| ImageColumns { bytes: None, path: Some(path) })
        };
        stored.or_else(of_files).ok_or_else(|| DataError::NoImageColumn {
            path: path.to_path_buf(),
            columns: columns.iter().map(describe).collect(),
        })
    }

    /// The leaf column that holds labels, if there is one.
    pub(super) fn label_column(
        &self,
        path: &Path,
        metadata: &ParquetMetaData,
    ) -> Result<Option<usize>, DataError> {
        let columns = metadata.file_metadata().schema_descr().columns();
        let found = self
            .columns("ClassLabel", &LABEL_FIELDS)
            .find_map(|name| columns.iter().position(|column| column.path().parts() == [name]));
        let Some(index) = found else { return Ok(None) };
        let column = &columns[index];
        match column.physical_type() {
            Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE | Type::BYTE_ARRAY
                if column.max_rep_level() == 0 =>
            {
                Ok(Some(index))
            }
            _ => Err(DataError::LabelColumn {
                path: path.to_path_buf(),
                column: column.path().string(),
                found: column.physical_type().to_string(),
            }),
        }
    }

    /// The class names of the label column, empty if the footer has none.
    pub(super) fn class_names(&self) -> Vec<String> {
        self.columns("ClassLabel", &LABEL_FIELDS)
            .find_map(|name| self.0.get(name)?.get("names")?.as_array())
            .map(|names| names.iter().filter_map(|name| name.as_str().map(str::to_string)).collect())
            .unwrap_or_default()
    }
}

/// Whether the values of `column` are text, and not bytes.
fn is_text_column(column: &ColumnDescPtr) -> bool {
    matches!(column.logical_type_ref(), Some(LogicalType::String))
        || column.converted_type() == ConvertedType::UTF8
}

fn describe(column: &ColumnDescPtr) -> String {
    format!("{} ({})", column.path().string(), column.physical_type())
}
