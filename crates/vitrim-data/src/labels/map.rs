//! Maps a data set's classes to a backbone's: by name, or by index.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::number::{Written, written};
use crate::error::{DataError, one_line};

/// The backbone's class for each class of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelMap {
    /// Class by name. `None`: no class of the backbone, so that the images get no label.
    by_name: HashMap<String, Option<u32>>,
    by_index: Vec<Option<u32>>,
}

impl LabelMap {
    /// Reads a map from a file:
    ///
    /// * JSON: an object `{"class": index}`; a list of names, the backbone's classes in order; or a list of
    ///   indices, the backbone's class for each of the data set's classes. `null` or -1 leaves a class's images
    ///   without a label.
    /// * CSV: a line `class,index` for each class, with or without a header.
    /// * other text: one name per line, the backbone's classes in order.
    ///
    /// # Errors
    ///
    /// [`DataError::NotFound`], [`DataError::Unreadable`], [`DataError::NotText`], or [`DataError::LabelMap`] with the
    /// reason.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let text = vitrim_text::read(path).map_err(|cause| DataError::io(path, cause))?;
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let parsed = match extension.as_str() {
            "json" => Self::from_json(&text),
            "csv" | "tsv" => Self::from_csv(&text, if extension == "tsv" { b'\t' } else { b',' }),
            _ => Ok(Self::from_names(text.lines().map(str::trim).filter(|line| !line.is_empty()))),
        };
        let map = parsed.and_then(|map| match map.by_name.is_empty() && map.by_index.is_empty() {
            true => Err("names no class".into()),
            false => Ok(map),
        });
        map.map_err(|what| DataError::LabelMap { path: path.to_path_buf(), what })
    }

    /// The class of `name`: `None` if the map does not have it, `Some(None)` if it has no label.
    pub fn of_name(&self, name: &str) -> Option<Option<u32>> {
        self.by_name.get(name).copied()
    }

    /// The class of index `index` of the data set: `None` if the map does not have it, `Some(None)` if it has no
    /// label.
    pub fn of_index(&self, index: u32) -> Option<Option<u32>> {
        self.at(index).or_else(|| self.of_name(&index.to_string()))
    }

    /// The class at `index` of a list of classes.
    pub(crate) fn at(&self, index: u32) -> Option<Option<u32>> {
        self.by_index.get(index as usize).copied()
    }

    /// The largest class index in the map.
    pub fn max_class(&self) -> Option<u32> {
        self.by_name.values().chain(&self.by_index).flatten().max().copied()
    }

    fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut by_name = HashMap::new();
        let mut shared = Vec::new();
        for (class, name) in names.into_iter().enumerate() {
            if by_name.insert(name.to_string(), Some(class as u32)).is_some() {
                shared.push(name);
            }
        }
        for name in shared {
            by_name.remove(name);
        }
        Self { by_name, ..Self::default() }
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let class = |at: &dyn std::fmt::Display, value: &Value| match value {
            Value::Null => Ok(None),
            value => match written(&value.to_string()) {
                Written::Whole(-1) => Ok(None),
                Written::Whole(index) => class_of(index, at).map(Some),
                _ => Err(format!("`{at}` is {value}; give the index of a class, or null")),
            },
        };
        match serde_json::from_str(text).map_err(|error| format!("not JSON ({})", one_line(error)))? {
            Value::Object(fields) => {
                let entry = |(name, value): (&String, &Value)| Ok((name.clone(), class(name, value)?));
                let by_name = fields.iter().map(entry).collect::<Result<_, String>>()?;
                Ok(Self { by_name, ..Self::default() })
            }
            Value::Array(items) if items.iter().all(Value::is_string) => {
                Ok(Self::from_names(items.iter().filter_map(Value::as_str)))
            }
            Value::Array(items) => {
                let by_index = items.iter().enumerate().map(|(at, value)| class(&at, value));
                Ok(Self { by_index: by_index.collect::<Result<_, _>>()?, ..Self::default() })
            }
            _ => Err("give an object of class and index, or a list".into()),
        }
    }

    fn from_csv(text: &str, delimiter: u8) -> Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(text.as_bytes());
        let mut by_name = HashMap::new();
        for (line, record) in reader.records().enumerate() {
            let record = record.map_err(one_line)?;
            let (Some(name), Some(index), None) = (record.get(0), record.get(1), record.get(2)) else {
                return Err(format!("line {} has not two fields; give `class,index`", line + 1));
            };
            match written(index.trim()) {
                Written::Whole(-1) => by_name.insert(name.trim().to_string(), None),
                Written::Whole(index) => {
                    by_name.insert(name.trim().to_string(), Some(class_of(index, &name)?))
                }
                // Only in a header, the second field is not a number.
                Written::Word if line == 0 => continue,
                _ => return Err(format!("line {}: `{index}` is no index of a class", line + 1)),
            };
        }
        Ok(Self { by_name, ..Self::default() })
    }
}

fn class_of(index: i64, at: &dyn std::fmt::Display) -> Result<u32, String> {
    u32::try_from(index).map_err(|_| format!("`{at}` is {index}; give the index of a class, 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(name: &str, text: &str) -> Result<LabelMap, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        LabelMap::open(path)
    }

    #[test]
    fn every_form_is_read() {
        let json = opened("m.json", r#"{"cat": 281, "dog": null, "fox": -1}"#).unwrap();
        let csv = opened("m.csv", "class,index\ncat,281\ndog,-1\nfox,-1\n").unwrap();
        assert_eq!(json, csv);
        assert_eq!(json, opened("m.tsv", "cat\t281\ndog\t-1\nfox\t-1").unwrap());
        assert_eq!(json, opened("m.json", r#"{"cat": 281.0, "dog": null, "fox": -1.0}"#).unwrap());
        assert_eq!(json, opened("m.csv", "cat,281.0\ndog,-1.0\nfox,-1\n").unwrap());
        assert_eq!(
            (json.of_name("cat"), json.of_name("dog"), json.of_name("cow")),
            (Some(Some(281)), Some(None), None)
        );
        assert_eq!((json.of_index(0), json.max_class()), (None, Some(281)));
        let names = opened("m.json", r#"["cat", "dog"]"#).unwrap();
        assert_eq!(names, opened("m.txt", "cat\n dog \n\n").unwrap());
        assert_eq!(names.of_name("dog"), Some(Some(1)));
        let indices = opened("m.json", "[6, null, 13]").unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|i| indices.of_index(i)),
            [Some(Some(6)), Some(None), Some(Some(13)), None]
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (name, text, words) in [
            ("m.json", "{", "not JSON"),
            ("m.json", "3", "an object of class and index"),
            ("m.json", r#"{"cat": 1.5}"#, "`cat` is 1.5"),
            ("m.json", r#"{"cat": -2}"#, "`cat` is -2"),
            ("m.json", r#"["cat", 2]"#, "`0` is \"cat\""),
            ("m.json", "[]", "names no class"),
            ("m.csv", "cat,1\ndog", "line 2"),
            ("m.csv", "cat,1\ndog,two", "line 2: `two`"),
            ("m.txt", "\n", "names no class"),
        ] {
            let error = opened(name, text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(name) && !error.contains('\n'), "{error}");
        }
        assert!(LabelMap::open("nowhere.json").unwrap_err().to_string().contains("no such file"));
    }
}
