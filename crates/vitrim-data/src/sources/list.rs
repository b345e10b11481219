//! Lists of image files: one path per line, or CSV or JSON lines with a path and a label.
//!
//! Relative paths are relative to the folder of the list.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::folder::has_image_extension;
use crate::error::{DataError, one_line};
use crate::labels::{LABEL_FIELDS, StatedLabels, label_in, word};

/// Columns and fields that hold a path, the most reliable first.
pub(super) const PATH_FIELDS: [&str; 8] =
    ["path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path"];

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
    let mut found = Found::default();
    let text = vitrim_text::read(path).map_err(|cause| DataError::io(path, cause))?;
    let read = match kind {
        ListKind::Text => {
            found.read_lines(&text);
            Ok(())
        }
        ListKind::Table { delimiter } => found.read_table(&text, delimiter),
        ListKind::JsonLines => found.read_json(&text),
    };
    read.map_err(|what| DataError::List { path: path.to_path_buf(), what })?;
    let Some(first) = found.paths.first() else {
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
    let lines = found.lines;
    let origin = |row: usize| format!("{}, line {}", path.display(), lines.get(row).copied().unwrap_or(0));
    let (class_names, labels) = found.labels.classes(origin)?;
    Ok(ListIndex { paths: found.paths, class_names, labels })
}

/// The folder to which the paths of the list at `path` are relative.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

#[derive(Default)]
struct Found {
    paths: Vec<PathBuf>,
    labels: StatedLabels,
    /// Line number of each path, from 1.
    lines: Vec<u64>,
}

impl Found {
    fn push(&mut self, line: u64, path: &str, label: Option<&str>) {
        self.paths.push(PathBuf::from(path));
        self.labels.push(label);
        self.lines.push(line);
    }

    fn read_lines(&mut self, text: &str) {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            match line.rsplit_once([' ', '\t']) {
                // A name may contain spaces: only a number after an image's extension is a label.
                Some((path, label))
                    if label.parse::<i64>().is_ok() && has_image_extension(Path::new(path.trim_end())) =>
                {
                    self.push(number, path.trim_end(), Some(label));
                }
                _ if !line.is_empty() => self.push(number, line, None),
                _ => {}
            }
        }
    }

    fn read_table(&mut self, text: &str, delimiter: u8) -> Result<(), String> {
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(one_line)?.clone();
        let column = |names: &[&str]| {
            names.iter().find_map(|name| header.iter().position(|field| field.eq_ignore_ascii_case(name)))
        };
        let Some(path) = column(&PATH_FIELDS) else {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            return Err(format!(
                "its first line names no column of paths; expected one of {}, found: {found}",
                PATH_FIELDS.join(", ")
            ));
        };
        let label = column(&LABEL_FIELDS);
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(one_line)? {
            let line = record.position().map_or(0, csv::Position::line);
            match record.get(path) {
                Some(path) if !path.is_empty() => {
                    self.push(line, path, label.and_then(|label| record.get(label)));
                }
                _ => return Err(format!("line {line} has no path; add it or remove the line")),
            }
        }
        Ok(())
    }

    fn read_json(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let object: Value = serde_json::from_str(line)
                .map_err(|error| format!("line {number} is not a JSON object ({})", one_line(error)))?;
            let path = PATH_FIELDS.iter().find_map(|field| word(object.get(field)?));
            let Some(path) = path else {
                return Err(format!("line {number} has no path; expected one of {}", PATH_FIELDS.join(", ")));
            };
            self.push(number, &path, label_in(&object).as_deref());
        }
        Ok(())
    }
}
