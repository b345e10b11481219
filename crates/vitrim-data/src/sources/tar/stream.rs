//! Streams of tar shards: pipes and compressed files.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::bufread::MultiGzDecoder;

use super::member::{FileMember, Form, PAX_SPARSE};
use super::sample::{BLOCK, Parts, Role, Sample, Whole, damaged, key_and_role, label_text};
use crate::decoding::too_long;
use crate::error::DataError;
use crate::limits::{MAX_ENCODED_BYTES, MAX_LABEL_BYTES};

/// Inputs that are read one after another, as one archive.
#[derive(Debug)]
pub(crate) struct TarStream {
    inputs: Vec<Input>,
    /// The rows read so far.
    rows: Mutex<Vec<StreamedRow>>,
    started: AtomicBool,
}

/// The source of a stream's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin,
    /// A named pipe.
    Pipe(PathBuf),
    /// A compressed file.
    File(PathBuf),
}

/// An image that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamedRow {
    /// The member's path in the archive.
    pub name: String,
    pub label: Option<u32>,
}

/// Called with each image as it is read: the member's path, its label, and its bytes or a read error; returns whether
/// reading continues.
pub(crate) type Streamed<'s> =
    dyn FnMut(String, Option<String>, Result<Arc<[u8]>, DataError>) -> Result<bool, DataError> + 's;

impl TarStream {
    pub(crate) fn new(inputs: Vec<Input>) -> Self {
        Self { inputs, rows: Mutex::default(), started: AtomicBool::new(false) }
    }

    /// The stream's name in messages.
    pub(crate) fn origin(&self) -> String {
        self.inputs.first().map(Input::origin).unwrap_or_default()
    }

    /// The rows read so far.
    pub(crate) fn rows(&self) -> MutexGuard<'_, Vec<StreamedRow>> {
        // Rows are appended as a whole, so that they are valid after a panic elsewhere.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of `row`, empty if it has not been read.
    pub(crate) fn name_of_row(&self, row: usize) -> String {
        self.rows().get(row).map(|row| row.name.clone()).unwrap_or_default()
    }

    /// Reads from the start, and calls `sink` with every image until it returns false.
    pub(crate) fn read(&self, sink: &mut Streamed<'_>) -> Result<(), DataError> {
        let again = self.started.swap(true, Ordering::Relaxed);
        if again && self.inputs.iter().any(|input| !matches!(input, Input::File(_))) {
            return Err(DataError::OnePass { origin: self.origin(), wanted: "read a second time" });
        }
        let mut met = false;
        for input in &self.inputs {
            let more = read_archive(input, &mut |name, label, image| {
                met = true;
                sink(name, label, image)
            })?;
            if !more {
                return Ok(());
            }
        }
        if met { Ok(()) } else { Err(DataError::Empty { path: self.origin().into() }) }
    }
}

impl Input {
    /// Opens the input, and decompresses it if it starts with gzip's magic number.
    fn open(&self) -> Result<Box<dyn Read>, DataError> {
        let raw: Box<dyn Read> = match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::Pipe(path) | Self::File(path) => {
                Box::new(File::open(path).map_err(|cause| DataError::io(path, cause))?)
            }
        };
        let mut buffered = BufReader::with_capacity(1 << 16, raw);
        let start = buffered.fill_buf().map_err(|error| damaged(&self.origin(), error))?;
        if start.starts_with(&[0x1f, 0x8b]) {
            return Ok(Box::new(MultiGzDecoder::new(buffered)));
        }
        Ok(Box::new(buffered))
    }

    fn origin(&self) -> String {
        match self {
            Self::Stdin => "standard input".into(),
            Self::Pipe(path) | Self::File(path) => path.display().to_string(),
        }
    }
}

/// Calls `sink` with the images of one archive; returns whether it wants more.
fn read_archive(input: &Input, sink: &mut Streamed<'_>) -> Result<bool, DataError> {
    let origin = input.origin();
    let damaged = |error| damaged(&origin, error);
    let zeros = Rc::new(Cell::new(0));
    let mut archive = tar::Archive::new(Watched { reader: input.open()?, zeros: Rc::clone(&zeros) });
    // `cat a.tar b.tar` leaves the final zeros of the first archive in the middle.
    archive.set_ignore_zeros(true);
    let mut current: Option<Sample<Result<Arc<[u8]>, DataError>>> = None;
    let mut met = MetKeys::default();
    let mut end_sample = |sample: Option<Sample<_>>| {
        let Some(sample) = sample else { return Ok(true) };
        met.add(&sample, &origin)?;
        match sample.whole() {
            Some(Whole { name, image, label }) => sink(name, label, image),
            None => Ok(true),
        }
    };
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let Some(FileMember { name, form }) = FileMember::of(&mut entry).map_err(damaged)? else { continue };
        let Some((key, role)) = key_and_role(&name) else { continue };
        if current.as_ref().is_none_or(|sample| sample.key != key)
            && !end_sample(current.replace(Sample::new(key)))?
        {
            return Ok(false);
        }
        let Some(sample) = &mut current else { continue };
        let bytes = entry.size();
        let unread = match form {
            Form::Whole | Form::Sparse => None,
            Form::PaxSparse => Some(PAX_SPARSE.to_string()),
            Form::Link(target) => Some(format!(
                "a link to {target}, which cannot be followed in a stream; decompress the shards (.tar), or pack them \
                 with tar --hard-dereference --dereference"
            )),
        };
        match (role, unread) {
            (Role::Image { exact }, Some(what)) => {
                sample.take_image(
                    exact,
                    &name,
                    Err(DataError::bad_image(member_origin(&origin, &name), what)),
                );
            }
            (Role::Class | Role::Json, Some(what)) => {
                return Err(DataError::TarMember { origin: member_origin(&origin, &name), what });
            }
            (Role::Image { exact }, None) => {
                let image = match bytes > MAX_ENCODED_BYTES {
                    true => Err(too_long(member_origin(&origin, &name))),
                    false => Ok(read_member(&mut entry, bytes).map_err(damaged)?.into()),
                };
                sample.take_image(exact, &name, image);
            }
            (Role::Class | Role::Json, None) if bytes <= MAX_LABEL_BYTES => {
                let text = read_member(&mut entry, bytes).map_err(damaged)?;
                sample.take_label(role, label_text(&text, || member_origin(&origin, &name))?);
            }
            (Role::Class | Role::Json | Role::Other, _) => {}
        }
    }
    // A pipe that ended between two members without the final zeros is incomplete.
    if zeros.get() < BLOCK {
        let reason = "it ends without the empty blocks that end an archive".into();
        return Err(DataError::DamagedTar { origin, reason });
    }
    end_sample(current)
}

/// The keys of the samples so far, as hashes, and their parts.
#[derive(Default)]
struct MetKeys {
    parts: HashMap<u64, Parts>,
    hasher: RandomState,
}

impl MetKeys {
    /// Adds `sample` of the stream `origin`.
    ///
    /// # Errors
    ///
    /// [`DataError::Apart`] if an earlier sample lacks what this one has.
    fn add<I>(&mut self, sample: &Sample<I>, origin: &str) -> Result<(), DataError> {
        let parts = sample.parts();
        if parts.are_none() {
            return Ok(());
        }
        match self.parts.insert(self.hasher.hash_one(&sample.key), parts) {
            Some(before) if before.belong_with(parts) => {
                Err(DataError::Apart { origin: origin.to_string(), key: sample.key.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A reader that counts the zero bytes at the end of what it has returned.
struct Watched<R> {
    reader: R,
    zeros: Rc<Cell<u64>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let zeros = buffer[..read].iter().rev().take_while(|&&byte| byte == 0).count();
        let before = if zeros == read { self.zeros.get() } else { 0 };
        self.zeros.set(before + zeros as u64);
        Ok(read)
    }
}

/// `standard input, member`: the location of an image.
pub(crate) fn member_origin(stream: &str, member: &str) -> String {
    format!("{stream}, {member}")
}

/// Reads a member of `bytes` bytes.
fn read_member(entry: &mut impl Read, bytes: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    entry.read_to_end(&mut read)?;
    if (read.len() as u64) < bytes {
        let reason = format!("it ends {} bytes into a member of {bytes}", read.len());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    Ok(read)
}

/// Whether `path` is a named pipe.
#[cfg(unix)]
pub(crate) fn is_pipe(kind: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.file_type().is_fifo()
}

#[cfg(not(unix))]
pub(crate) fn is_pipe(_: &std::fs::Metadata) -> bool {
    false
}

/// Whether the name of `path` is that of a compressed tar archive.
pub(crate) fn is_compressed(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    name.ends_with(".tar.gz") || name.ends_with(".tgz")
}
