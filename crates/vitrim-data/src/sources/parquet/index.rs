//! The parquet files of one split: footers and labels are read when they are opened, images row group by row group.

use std::path::{Path, PathBuf};

use ::parquet::basic::Type;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::columns::HfFeatures;
use super::file::{ParquetFile, RowGroup};
use super::rows::{GroupReader, each_text, each_word};
use crate::error::{DataError, one_line};
use crate::labels::{StatedLabels, Written, class_of, written};
use crate::limits::{MAX_LABEL_WORD_BYTES, MAX_ROWS};
use crate::sources::folder::name_of;
use crate::sources::stamp::Stamp;

/// The parquet files of one split, opened.
#[derive(Debug)]
pub(crate) struct ParquetIndex {
    /// The files, in order of path.
    files: Vec<ParquetFile>,
    /// The row groups, in order of file, then as stored.
    pub groups: Vec<RowGroup>,
    /// Class names from the `huggingface` key of the footer; empty if there is none.
    pub class_names: Vec<String>,
    /// One label for each row.
    pub labels: Vec<Option<u32>>,
    /// Whether labels are words.
    is_worded: bool,
    /// The words while the files are opened, one for each row.
    words: StatedLabels,
}

/// The footer of the parquet file at `path`.
pub(super) fn footer(path: &Path) -> Result<(ParquetMetaData, Stamp), DataError> {
    let (opened, stamp) = Stamp::open(path)?;
    let footer = ParquetMetaDataReader::new()
        .parse_and_finish(&opened)
        .map_err(|error| DataError::NotParquet { path: path.to_path_buf(), reason: one_line(error) })?;
    Ok((footer, stamp))
}

/// The class among `classes` (0: their number is unknown) that a column of numbers states as `label`.
fn class_of_word(
    label: Option<&str>,
    classes: usize,
    origin: impl Fn() -> String,
) -> Result<Option<u32>, DataError> {
    let index = match label.map(|label| (label, written(label))) {
        Some((_, Written::Whole(index))) => Some(index),
        Some((label, Written::Fraction | Written::Word)) => {
            return Err(DataError::FractionalLabel { origin: origin(), label: label.to_string() });
        }
        Some((_, Written::Gap)) | None => None,
    };
    class_of(index, classes).map_err(|(label, expected)| DataError::BadLabel {
        origin: origin(),
        label,
        expected,
    })
}

impl ParquetIndex {
    /// Reads the footers and label columns of `paths`.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, DataError> {
        let mut index = Self {
            files: Vec::new(),
            groups: Vec::new(),
            class_names: Vec::new(),
            labels: Vec::new(),
            is_worded: false,
            words: StatedLabels::default(),
        };
        for path in paths {
            index.add_file(path)?;
        }
        if index.labels.is_empty() {
            return Err(DataError::Empty { path: paths.first().cloned().unwrap_or_default() });
        }
        if index.is_worded {
            let words = std::mem::take(&mut index.words);
            (index.class_names, index.labels) = words.classes(|row| index.origin_of_row(row))?;
        }
        Ok(index)
    }

    /// Whether labels are words, and the classes their sorted order.
    pub(crate) fn is_worded(&self) -> bool {
        self.is_worded
    }

    /// `file.parquet#row`, the row counted within the file.
    pub(crate) fn name_of_row(&self, row: usize) -> String {
        let file = self.file_of_row(row);
        format!("{}#{}", name_of(&file.path), row - file.first_row)
    }

    /// `folder/file.parquet, row n`: the location of the row.
    pub(crate) fn origin_of_row(&self, row: usize) -> String {
        self.file_of_row(row).origin(row)
    }

    /// The position in [`groups`](Self::groups) of the row group that holds `row`.
    pub(crate) fn group_of_row(&self, row: usize) -> usize {
        self.groups.partition_point(|group| group.first_row + group.rows <= row)
    }

    /// Starts reading the images of a row group.
    pub(crate) fn read_group(&self, group: &RowGroup) -> Result<GroupReader<'_>, DataError> {
        GroupReader::open(&self.files[group.file], group)
    }

    fn file_of_row(&self, row: usize) -> &ParquetFile {
        // The first file starts at row 0, so that at least one file starts at or before any row.
        &self.files[self.files.partition_point(|file| file.first_row <= row) - 1]
    }

    fn add_file(&mut self, path: &Path) -> Result<(), DataError> {
        let (metadata, stamp) = footer(path)?;
        let features = HfFeatures::of(&metadata);
        let images = features.image_columns(path, &metadata)?;
        let label_column = features.label_column(path, &metadata)?;
        self.take_class_names(path, features.class_names())?;
        self.take_kind_of_labels(path, label_column, &metadata)?;

        let file =
            ParquetFile { path: path.to_path_buf(), metadata, stamp, images, first_row: self.labels.len() };
        let file_index = self.files.len();
        for number in 0..file.metadata.num_row_groups() {
            let stored = file.metadata.row_group(number);
            let group = RowGroup {
                file: file_index,
                number,
                first_row: self.labels.len(),
                rows: usize::try_from(stored.num_rows()).unwrap_or(0),
                bytes: u64::try_from(stored.column(images.main()).uncompressed_size()).unwrap_or(0),
            };
            if group.rows > MAX_ROWS - self.labels.len() {
                let what = format!("more than {MAX_ROWS} rows in all");
                return Err(DataError::LargeParquet { path: path.to_path_buf(), row_group: number, what });
            }
            match label_column {
                None => {
                    self.labels.extend(std::iter::repeat_n(None, group.rows));
                    (0..group.rows).for_each(|_| self.words.push(None));
                }
                Some(column) if self.is_worded => {
                    each_text(&file, &group, column, |word| {
                        let text = word.as_ref().map(|word| vitrim_text::utf8(word.data())).transpose();
                        let text = text.map_err(|error| DataError::NotText {
                            origin: file.origin(self.labels.len()),
                            reason: format!("its label {error}"),
                        })?;
                        self.words.push(text);
                        self.labels.push(None);
                        if self.words.word_bytes() > MAX_LABEL_WORD_BYTES {
                            let limit = MAX_LABEL_WORD_BYTES >> 20;
                            let what = format!("the words of the labels take more than {limit} MiB in all");
                            return Err(DataError::LargeParquet {
                                path: path.to_path_buf(),
                                row_group: number,
                                what,
                            });
                        }
                        Ok(())
                    })?;
                }
                Some(column) => {
                    let classes = self.class_names.len();
                    each_word(&file, &group, column, |label| {
                        let row = self.labels.len();
                        self.labels.push(class_of_word(label.as_deref(), classes, || file.origin(row))?);
                        Ok(())
                    })?;
                }
            }
            self.groups.push(group);
        }
        self.files.push(file);
        Ok(())
    }

    /// Whether the labels in the column `label_column` are words; those of all files must be, or none.
    fn take_kind_of_labels(
        &mut self,
        path: &Path,
        label_column: Option<usize>,
        metadata: &ParquetMetaData,
    ) -> Result<(), DataError> {
        let Some(column) = label_column else { return Ok(()) };
        let column = metadata.file_metadata().schema_descr().column(column);
        let is_worded = column.physical_type() == Type::BYTE_ARRAY;
        if !self.files.is_empty() && is_worded != self.is_worded {
            return Err(DataError::LabelColumn {
                path: path.to_path_buf(),
                column: column.path().string(),
                found: format!("{}, but not in the files before it", column.physical_type()),
            });
        }
        self.is_worded = is_worded;
        Ok(())
    }

    fn take_class_names(&mut self, path: &Path, names: Vec<String>) -> Result<(), DataError> {
        match self.files.first() {
            None => self.class_names = names,
            Some(first) if self.class_names != names => {
                return Err(DataError::ClassNamesDiffer {
                    path: path.to_path_buf(),
                    other: first.path.clone(),
                });
            }
            Some(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_floats_are_classes_and_others_are_refused() {
        let class = |label| class_of_word(label, 3, || "x.parquet, row 4".into());
        assert_eq!((class(Some("2.0")).unwrap(), class(Some("1")).unwrap()), (Some(2), Some(1)));
        assert_eq!((class(Some("NaN")).unwrap(), class(None).unwrap()), (None, None));
        for (label, words) in
            [("1.5", "label 1.5 is not a whole number"), ("inf", "label inf"), ("3", "0 to 2")]
        {
            let error = class(Some(label)).unwrap_err().to_string();
            assert!(error.starts_with("x.parquet, row 4: ") && error.contains(words), "{error}");
        }
    }
}
