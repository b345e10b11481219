//! A run's log: JSON lines and TensorBoard, with the same entries.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::tensorboard::EventWriter;
use crate::error::{Result, TrainError};

/// The log's file name in a run folder.
pub const FILE: &str = "log.jsonl";

/// Appends to `log.jsonl` and to its own event file.
pub struct RunLog {
    path: PathBuf,
    lines: fs::File,
    /// Created by the first entry, so that a run without remaining steps leaves no empty file.
    events: Option<EventWriter>,
    folder: PathBuf,
}

impl RunLog {
    /// Opens the folder's logs after their first `entries`; entries that an interrupted run wrote after its last
    /// checkpoint are removed.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn open(folder: &Path, entries: usize) -> Result<Self> {
        let path = folder.join(FILE);
        let kept: String = match fs::read_to_string(&path) {
            Ok(text) => text.lines().take(entries).flat_map(|line| [line, "\n"]).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::file("read", &path)(error)),
        };
        vitrim_durable::replace(&path, kept.as_bytes())?;
        let lines =
            fs::OpenOptions::new().append(true).open(&path).map_err(TrainError::file("write", &path))?;
        Ok(RunLog { path, lines, events: None, folder: folder.to_owned() })
    }

    /// Writes `entry`, a struct of numbers and lists of numbers. In TensorBoard its fields are `<tag>/<field>`, those
    /// of lists `<tag>/<field>/<index from 1>`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&mut self, step: usize, tag: &str, entry: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(entry).expect("an entry is plain data");
        writeln!(self.lines, "{value}").map_err(TrainError::file("write", &self.path))?;
        let events = match &mut self.events {
            Some(events) => events,
            none => none.insert(EventWriter::create(&self.folder)?),
        };
        let mut scalar = |tag: String, value: &Value| match value.as_f64() {
            Some(value) => events.scalar(step as i64, &tag, value),
            None => Ok(()),
        };
        for (field, value) in value.as_object().into_iter().flatten() {
            match value {
                Value::Array(values) => {
                    for (i, value) in values.iter().enumerate() {
                        scalar(format!("{tag}/{field}/{}", i + 1), value)?;
                    }
                }
                value => scalar(format!("{tag}/{field}"), value)?,
            }
        }
        Ok(events.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cannot_be_read_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let log = b"{\"update\":1}\n\xff\n";
        fs::write(&path, log).unwrap();
        let error = RunLog::open(folder.path(), 1).err().unwrap().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(fs::read(&path).unwrap(), log);
    }

    #[test]
    fn a_log_goes_on_behind_its_first_entries() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "1\n2\n3").unwrap();
        drop(RunLog::open(folder.path(), 2).unwrap());
        assert_eq!(fs::read(folder.path().join(FILE)).unwrap(), b"1\n2\n");
    }
}
