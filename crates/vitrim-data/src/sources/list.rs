//! Lists of image files: one path per line, or CSV, JSON lines or parquet with a path and a label.
//!
//! Relative paths are relative to the folder of the list.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::folder::has_image_extension;
use super::parquet::each_path;
use crate::error::{DataError, one_line};
use crate::labels::{LABEL_FIELDS, StatedLabels, Written, label_in, word, written};

/// Columns and fields that hold a path, the most reliable first.
pub(super) const PATH_FIELDS: [&str; 8] =
    ["path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path"];

/// The fields of Hugging Face's metadata tables: as above, but `file_name` first.
const METADATA_PATH_FIELDS: [&str; 8] =
    ["file_name", "path", "file", "filename", "filepath", "file_path", "image", "image_path"];

/// The images of a list, in its order.
#[derive(Debug)]
pub(crate) struct ListIndex {
    /// Paths as written in the list (relative to its folder).
    pub paths: Vec<PathBuf>,
    /// Class names, sorted; empty if labels are indices or absent.
    pub class_names: Vec<String>,
    /// One label for each path.
    pub labels: Vec<Option<u32>>,
}

/// The format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// One path per line, optionally followed by the index of its class, as in Caffe.
    Text,
    /// A table with a header.
    Table {
        delimiter: u8,
    },
    JsonLines,
    /// A parquet file with a column of paths instead of images.
    Parquet,
}

impl ListKind {
    /// The format that belongs to the file's extension.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "txt" | "lst" | "list" => Some(Self::Text),
            "csv" => Some(Self::Table { delimiter: b',' }),
            "tsv" => Some(Self::Table { delimiter: b'\t' }),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// Reads the list at `path`. Only the first of the files is checked for existence, which is enough to detect a wrong
/// folder; a single missing file is one bad image.
pub(crate) fn index(path: &Path, kind: ListKind) -> Result<ListIndex, DataError> {
    let found = read(path, kind, &PATH_FIELDS)?;
    found.index(path)
}

/// Reads the rows in `folder` (all, if it is absent) of Hugging Face's metadata table at `path`; otherwise as [`index`].
/// Its classes are those of all rows, so that each split has the same.
pub(crate) fn index_table(path: &Path, kind: ListKind, folder: Option<&str>) -> Result<ListIndex, DataError> {
    let mut found = read(path, kind, &METADATA_PATH_FIELDS)?.index(path)?;
    if let Some(folder) = folder {
        let kept: Vec<bool> = found.paths.iter().map(|path| first_folder(path) == Some(folder)).collect();
        let mut rows = kept.iter();
        found.paths.retain(|_| rows.next() == Some(&true));
        let mut rows = kept.iter();
        found.labels.retain(|_| rows.next() == Some(&true));
    }
    Ok(found)
}

/// The rows of Hugging Face's metadata table at `path`; `None` if it has no column of paths, and belongs to something
/// else.
pub(super) fn read_metadata(path: &Path, kind: ListKind) -> Result<Option<Found>, DataError> {
    match read(path, kind, &METADATA_PATH_FIELDS) {
        Ok(found) => Ok(Some(found)),
        Err(DataError::NoPaths { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first folder of a relative path.
pub(super) fn first_folder(path: &Path) -> Option<&str> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    let Some(Component::Normal(first)) = parts.next() else { return None };
    parts.next().and_then(|_| first.to_str())
}

fn read(path: &Path, kind: ListKind, fields: &[&str]) -> Result<Found, DataError> {
    let mut found = Found::default();
    let text = || vitrim_text::read(path).map_err(|cause| DataError::io(path, cause));
    let read = match kind {
        ListKind::Text => {
            found.read_lines(&text()?);
            Ok(())
        }
        ListKind::Table { delimiter } => found.read_table(&text()?, delimiter, fields),
        ListKind::JsonLines => found.read_json(&text()?, fields),
        ListKind::Parquet => found.read_parquet(path, fields)?,
    };
    read.map_err(|error| match error {
        Unread::NoPaths(what) => DataError::NoPaths { path: path.to_path_buf(), what },
        Unread::Other(what) => DataError::List { path: path.to_path_buf(), what },
    })?;
    Ok(found)
}

/// Why a list cannot be read.
enum Unread {
    /// It has no paths.
    NoPaths(String),
    Other(String),
}

impl From<String> for Unread {
    fn from(what: String) -> Self {
        Self::Other(what)
    }
}

/// The folder to which the paths of the list at `path` are relative.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn is_number(label: &str) -> bool {
    matches!(written(label), Written::Whole(_) | Written::Fraction)
}

/// The rows of a list.
#[derive(Default)]
pub(super) struct Found {
    /// Paths as written.
    pub(super) paths: Vec<PathBuf>,
    /// One label for each path.
    pub(super) labels: StatedLabels,
    /// Line or row of each path, from 1.
    lines: Vec<u64>,
    /// Whether there is a column or a field of labels.
    pub(super) labelled: bool,
}

impl Found {
    fn push(&mut self, line: u64, path: &str, label: Option<&str>) {
        self.paths.push(PathBuf::from(path));
        self.labels.push(label);
        self.lines.push(line);
    }

    /// Where row `row` of the list at `path` is.
    pub(super) fn origin(&self, path: &Path, row: usize) -> String {
        origin(path, &self.lines, row)
    }

    /// The line of row `row`.
    pub(super) fn line(&self, row: usize) -> u64 {
        self.lines.get(row).copied().unwrap_or(0)
    }

    fn index(self, path: &Path) -> Result<ListIndex, DataError> {
        let Some(first) = self.paths.first() else {
            let what = "names no image; give a path a line, or a table with columns path and label".into();
            return Err(DataError::List { path: path.to_path_buf(), what });
        };
        if !folder_of(path).join(first).is_file() {
            let what = format!(
                "its first image, {}, is not there; paths are relative to the list's folder",
                first.display()
            );
            return Err(DataError::List { path: path.to_path_buf(), what });
        }
        let lines = self.lines;
        let (class_names, labels) = self.labels.classes(|row| origin(path, &lines, row))?;
        Ok(ListIndex { paths: self.paths, class_names, labels })
    }

    fn read_lines(&mut self, text: &str) {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            match line.rsplit_once([' ', '\t']) {
                // A name may contain spaces: only a number after an image's extension is a label.
                Some((path, label))
                    if is_number(label) && has_image_extension(Path::new(path.trim_end())) =>
                {
                    self.push(number, path.trim_end(), Some(label));
                }
                _ if !line.is_empty() => self.push(number, line, None),
                _ => {}
            }
        }
    }

    fn read_table(&mut self, text: &str, delimiter: u8, fields: &[&str]) -> Result<(), Unread> {
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(one_line)?.clone();
        let column = |names: &[&str]| {
            names.iter().find_map(|name| header.iter().position(|field| field.eq_ignore_ascii_case(name)))
        };
        let Some(path) = column(fields) else {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            return Err(Unread::NoPaths(format!(
                "its first line names no column of paths; expected one of {}, found: {found}",
                fields.join(", ")
            )));
        };
        let label = column(&LABEL_FIELDS);
        self.labelled = label.is_some();
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(one_line)? {
            let line = record.position().map_or(0, csv::Position::line);
            match record.get(path) {
                Some(path) if !path.is_empty() => {
                    self.push(line, path, label.and_then(|label| record.get(label)));
                }
                _ => return Err(format!("line {line} has no path; add it or remove the line").into()),
            }
        }
        Ok(())
    }

    fn read_json(&mut self, text: &str, fields: &[&str]) -> Result<(), Unread> {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let object: Value = serde_json::from_str(line)
                .map_err(|error| format!("line {number} is not a JSON object ({})", one_line(error)))?;
            let path = fields.iter().find_map(|field| word(object.get(field)?));
            let Some(path) = path else {
                let what = format!("line {number} has no path; expected one of {}", fields.join(", "));
                return Err(if self.paths.is_empty() { Unread::NoPaths(what) } else { what.into() });
            };
            let label = label_in(&object);
            self.labelled |= label.is_some();
            self.push(number, &path, label.as_deref());
        }
        Ok(())
    }

    fn read_parquet(&mut self, path: &Path, fields: &[&str]) -> Result<Result<(), Unread>, DataError> {
        let (mut number, mut without_path) = (0, None);
        let labelled = each_path(path, fields, |image, label| {
            number += 1;
            if image.is_empty() {
                without_path.get_or_insert(number);
            }
            self.push(number, &image, label);
        })?;
        let Some(labelled) = labelled else {
            let what = format!("has no column of paths; expected one of {}", fields.join(", "));
            return Ok(Err(Unread::NoPaths(what)));
        };
        self.labelled = labelled;
        Ok(without_path.map_or(Ok(()), |number| {
            Err(format!("row {number} has no path; add it or remove the row").into())
        }))
    }
}

/// Where row `row` of the list at `path` is, whose rows are at `lines`.
fn origin(path: &Path, lines: &[u64], row: usize) -> String {
    format!("{}, line {}", path.display(), lines.get(row).copied().unwrap_or(0))
}
