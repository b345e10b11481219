//! Scalars for TensorBoard: one event file per run, in the format of TensorFlow's summary writer.
//!
//! An event file is a TFRecord file: each record is `length: u64`, masked crc32c of the length,
//! the bytes, masked crc32c of the bytes, all little-endian
//! (`tensorflow/core/lib/io/record_writer.cc`). A record holds one protobuf `Event`
//! (`tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`); of these
//! messages, only the fields that scalars need are declared here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

/// The version in the first record of a file, which readers check.
const FILE_VERSION: &str = "brain.Event:2";

/// An event file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorboardError {
    /// The operating system did not create or write the file.
    #[error("{}: cannot be written ({cause}); check its folder, its permissions and the free space", path.display())]
    Unwritable {
        /// The file, or the folder of the file.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
}

/// Appends scalars to its own event file.
///
/// A resumed run creates a second writer in the same folder: TensorBoard reads the files of a folder
/// in the order of their names, which begin with the time, and shows them as one run.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Creates `folder` if it is missing, and in it the file `events.out.tfevents.<unix seconds>.<host>`. No existing
    /// file is changed: a second writer within the same second gets a number at the end of its name.
    ///
    /// # Errors
    /// [`TensorboardError::Unwritable`] when folder or file cannot be created.
    pub fn create(folder: &Path) -> Result<EventWriter, TensorboardError> {
        let at = |path: &Path, cause| TensorboardError::Unwritable { path: path.to_path_buf(), cause };
        fs::create_dir_all(folder).map_err(|cause| at(folder, cause))?;
        let now = since_epoch();
        let name = format!("events.out.tfevents.{:010}.{}", now.as_secs(), host());
        let mut path = folder.join(&name);
        let mut copies = 0;
        let file = loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    copies += 1;
                    path = folder.join(format!("{name}.{copies}"));
                }
                Err(cause) => return Err(at(&path, cause)),
            }
        };
        let mut writer = EventWriter { path, file: BufWriter::new(file) };
        writer.append(&Event {
            wall_time: now.as_secs_f64(),
            step: 0,
            what: Some(What::FileVersion(FILE_VERSION.to_string())),
        })?;
        writer.flush()?;
        Ok(writer)
    }

    /// Appends one point of the curve `tag` (such as `train/policy_loss`). The value is stored as f32, as the format
    /// requires.
    ///
    /// # Errors
    /// [`TensorboardError::Unwritable`] when the file cannot be written.
    pub fn scalar(&mut self, step: i64, tag: &str, value: f64) -> Result<(), TensorboardError> {
        let value = Value { tag: tag.to_string(), simple_value: Some(value as f32) };
        self.append(&Event {
            wall_time: since_epoch().as_secs_f64(),
            step,
            what: Some(What::Summary(Summary { value: vec![value] })),
        })
    }

    /// Writes everything appended so far to the operating system, so that TensorBoard sees it. Dropping the writer
    /// does so too, but cannot report an error.
    ///
    /// # Errors
    /// [`TensorboardError::Unwritable`] when the file cannot be written.
    pub fn flush(&mut self) -> Result<(), TensorboardError> {
        let written = self.file.flush();
        self.written(written)
    }

    fn append(&mut self, event: &Event) -> Result<(), TensorboardError> {
        let written = self.file.write_all(&record(&event.encode_to_vec()));
        self.written(written)
    }

    fn written(&self, result: io::Result<()>) -> Result<(), TensorboardError> {
        result.map_err(|cause| TensorboardError::Unwritable { path: self.path.clone(), cause })
    }
}

/// `bytes` as one TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(bytes.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
    record.extend_from_slice(bytes);
    record.extend_from_slice(&masked_crc32c(bytes).to_le_bytes());
    record
}

/// The checksum as TFRecords store it: rotated and offset, because the checksum of data that contains its own
/// checksum is weak (`tensorflow/core/lib/hash/crc32c.h`).
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Time since 1970. An earlier clock gives 1970.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The machine's name, safe for a file name; `vitrim` if it is unknown.
fn host() -> String {
    let name = std::env::var("HOSTNAME")
        .or_else(|_| fs::read_to_string("/proc/sys/kernel/hostname"))
        .unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(plain).take(64).collect();
    if name.is_empty() { "vitrim".to_string() } else { name }
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Part of a oneof in the original, and therefore written even if it is 0.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events of a file, with all four checks of each record.
    fn read(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let (length_crc, after) = after.split_at(4);
            assert_eq!(length_crc, masked_crc32c(length).to_le_bytes());
            let length = u64::from_le_bytes(length.try_into().unwrap());
            let (data, after) = after.split_at(length as usize);
            let (data_crc, after) = after.split_at(4);
            assert_eq!(data_crc, masked_crc32c(data).to_le_bytes());
            events.push(Event::decode(data).unwrap());
            rest = after;
        }
        events
    }

    #[test]
    fn checksums_are_masked_as_tensorflow_does() {
        // The crc32c of "123456789" is the check value e3069283 of the CRC catalogue.
        assert_eq!(masked_crc32c(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        // The header of every event file that opens with a 24-byte record, as TensorFlow writes it.
        let header = record(&[0; 24]);
        assert_eq!(header[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn scalars_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&folder.path().join("deep/er")).unwrap();
        writer.scalar(1, "train/policy_loss", 0.25).unwrap();
        writer.scalar(2, "train/policy_loss", 0.0).unwrap();
        writer.scalar(i64::MAX, "speed/images_s", -1e30).unwrap();
        writer.flush().unwrap();

        let events = read(&writer.path);
        assert_eq!(events[0].what, Some(What::FileVersion(FILE_VERSION.to_string())));
        let points: Vec<(i64, String, f32)> = events[1..]
            .iter()
            .map(|event| match &event.what {
                Some(What::Summary(summary)) => {
                    let value = &summary.value[0];
                    let scalar = value.simple_value.expect("a scalar, even when it is 0");
                    (event.step, value.tag.clone(), scalar)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            points,
            [
                (1, "train/policy_loss".to_string(), 0.25),
                (2, "train/policy_loss".to_string(), 0.0),
                (i64::MAX, "speed/images_s".to_string(), -1e30),
            ]
        );
        assert!(events.iter().all(|event| event.wall_time > 1.7e9));
    }

    #[test]
    fn a_resumed_run_adds_a_file_that_sorts_after() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventWriter::create(folder.path()).unwrap();
        let before = fs::read(&first.path).unwrap();
        let second = EventWriter::create(folder.path()).unwrap();
        assert!(first.path < second.path);
        assert_eq!(fs::read(&first.path).unwrap(), before);
        let name = first.path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents."), "{name}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("taken");
        fs::write(&file, "").unwrap();
        let line = EventWriter::create(&file.join("runs")).unwrap_err().to_string();
        assert!(line.contains("taken") && !line.contains('\n'), "{line}");
    }
}
