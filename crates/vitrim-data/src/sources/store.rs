//! The encoded images of one split, by row.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use vitrim_text::shown;

use super::parquet::ParquetIndex;
use super::tar::{TarIndex, TarStream, member_origin};
use crate::dataset::{Mark, TAIL, mark, mark_of};
use crate::decoding::read_encoded;
use crate::error::DataError;
use crate::limits::MAX_ENCODED_BYTES;
use crate::scenes::scene_name;

/// The encoded images of a split. A row is a position in it.
#[derive(Debug)]
pub(crate) enum Store {
    Files {
        root: PathBuf,
        /// One path for each row, relative to `root` unless absolute.
        paths: Vec<PathBuf>,
    },
    Parquet(ParquetIndex),
    Tar(TarIndex),
    /// A stream; a row is known once it has been read.
    Stream(TarStream),
    Memory(Vec<Arc<[u8]>>),
    /// Scenes, generated on demand from consecutive seeds.
    Scenes {
        first_seed: u64,
    },
}

/// One image of a [`Store`], encoded.
pub(crate) enum Payload {
    /// A file, not read yet.
    File(PathBuf),
    Encoded(Arc<[u8]>),
    /// Row of a tar shard, not read yet.
    Member(usize),
    /// The seed of a scene, not generated yet.
    Scene(u64),
    /// The image was found but cannot be read.
    Refused(DataError),
    /// A parquet row without an image.
    Null,
}

impl Store {
    /// Whether the data set gives numbers to its classes itself; otherwise they are in the order of their names.
    pub(crate) fn numbers_its_classes(&self) -> bool {
        match self {
            Self::Parquet(parquet) => !parquet.is_worded(),
            Self::Memory(_) | Self::Scenes { .. } => true,
            Self::Files { .. } | Self::Tar(_) | Self::Stream(_) => false,
        }
    }

    /// A short name of `row`: its path below the split, its path in a list, `file.parquet#row`, or
    /// `shard.tar/member`.
    pub(crate) fn name_of_row(&self, row: usize) -> String {
        match self {
            Self::Files { paths, .. } => shown(&paths[row]),
            Self::Parquet(parquet) => parquet.name_of_row(row),
            Self::Tar(tar) => tar.name_of_row(row),
            Self::Stream(stream) => stream.name_of_row(row),
            Self::Memory(_) => memory_name(row),
            Self::Scenes { first_seed } => scene_name(first_seed + row as u64),
        }
    }

    /// The location of the image of `row`: a path, a parquet file and row, or a tar shard and member.
    pub(crate) fn origin_of_row(&self, row: usize) -> String {
        match self {
            Self::Files { root, paths } => root.join(&paths[row]).display().to_string(),
            Self::Parquet(parquet) => parquet.origin_of_row(row),
            Self::Tar(tar) => tar.origin_of_row(row),
            Self::Stream(stream) => member_origin(&stream.origin(), &stream.name_of_row(row)),
            Self::Memory(_) => memory_name(row),
            Self::Scenes { first_seed } => scene_name(first_seed + row as u64),
        }
    }

    /// Whether the ends of images can be read without the images.
    pub(crate) fn shows_ends(&self) -> bool {
        matches!(self, Self::Files { .. } | Self::Tar(_) | Self::Memory(_))
    }

    /// The mark of the image of `row`, of which only the end is read; `None` if that is not possible, or the image is one
    /// that will not be read.
    pub(crate) fn mark_of_row(&self, row: usize) -> Option<Mark> {
        match self {
            Self::Files { root, paths } => {
                let file = File::open(root.join(&paths[row])).ok()?;
                let bytes = file.metadata().ok()?.len();
                mark_of_end(file, 0, bytes).ok()
            }
            Self::Tar(tar) => {
                let (file, offset, bytes) = tar.open_row(row)?;
                mark_of_end(file, offset, bytes).ok()
            }
            Self::Memory(images) => Some(mark_of(&images[row])),
            Self::Parquet(_) | Self::Stream(_) | Self::Scenes { .. } => None,
        }
    }

    /// The image of `row`, of a store that [shows ends](Self::shows_ends).
    pub(crate) fn payload_of_row(&self, row: usize) -> Payload {
        match self {
            Self::Files { root, paths } => Payload::File(root.join(&paths[row])),
            Self::Tar(_) => Payload::Member(row),
            Self::Memory(images) => Payload::Encoded(Arc::clone(&images[row])),
            Self::Parquet(_) | Self::Stream(_) | Self::Scenes { .. } => Payload::Null,
        }
    }

    /// The encoded bytes of `payload`, whose image is at `origin`. For a scene, the bytes of its name.
    ///
    /// # Errors
    ///
    /// If the image cannot be read.
    pub(crate) fn bytes(
        &self,
        payload: Payload,
        origin: impl FnOnce() -> String,
    ) -> Result<Arc<[u8]>, DataError> {
        match payload {
            Payload::Encoded(bytes) => Ok(bytes),
            Payload::File(path) => Ok(read_encoded(&path)?.into()),
            Payload::Member(row) => match self {
                Self::Tar(tar) => Ok(tar.read_row(row)?.into()),
                _ => Err(DataError::bad_image(origin(), "no member of a tar shard")),
            },
            Payload::Refused(error) => Err(error),
            Payload::Scene(seed) => Ok(scene_name(seed).into_bytes().into()),
            Payload::Null => Err(DataError::bad_image(origin(), "the row has no image")),
        }
    }
}

/// The mark of the `bytes` bytes of `file` from `offset` on.
fn mark_of_end(mut file: File, offset: u64, bytes: u64) -> io::Result<Mark> {
    if bytes > MAX_ENCODED_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut tail = vec![0; TAIL.min(bytes as usize)];
    file.seek(SeekFrom::Start(offset + bytes - tail.len() as u64))?;
    file.read_exact(&mut tail)?;
    Ok(mark(bytes, &tail))
}

/// The name of an image that exists only in memory.
pub(crate) fn memory_name(row: usize) -> String {
    format!("memory#{row}")
}
