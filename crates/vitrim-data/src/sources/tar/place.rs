//! Where the files of a shard lie: in one piece, with holes, or where a link leads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use tar::Entry;

use super::member::{FileMember, Form, PAX_SPARSE, plain_name};
use super::sample::damaged;
use crate::error::DataError;

/// Largest number of links that are followed one after another.
const MAX_LINKS: usize = 16;

/// The place of a member's bytes in its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In one piece from `offset`.
    Whole { offset: u64, bytes: u64 },
    /// In the member whose header is at `header`, without its holes.
    Sparse { header: u64, bytes: u64 },
    /// Nowhere, for this reason.
    Nowhere(Box<str>),
}

impl Place {
    /// The place of `entry`, which is stored in `form`; the name of the member that it links to.
    pub(super) fn of<R: Read>(entry: &Entry<'_, R>, form: Form) -> Result<Self, String> {
        let bytes = entry.size();
        match form {
            Form::Whole => Ok(Self::Whole { offset: entry.raw_file_position(), bytes }),
            Form::Sparse => Ok(Self::Sparse { header: entry.raw_header_position(), bytes }),
            Form::PaxSparse => Ok(Self::Nowhere(PAX_SPARSE.into())),
            Form::Link(target) => Err(target),
        }
    }

    /// Number of bytes of the file, holes included.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Whole { bytes, .. } | Self::Sparse { bytes, .. } => *bytes,
            Self::Nowhere(_) => 0,
        }
    }

    /// The bytes of the file in the shard `file`; those of no file if it is nowhere.
    pub(super) fn read(&self, mut file: File) -> io::Result<Vec<u8>> {
        match self {
            Self::Whole { offset, bytes } => {
                file.seek(SeekFrom::Start(*offset))?;
                let mut read = vec![0; usize::try_from(*bytes).unwrap_or(usize::MAX)];
                file.read_exact(&mut read).map(|()| read)
            }
            Self::Sparse { header, .. } => {
                file.seek(SeekFrom::Start(*header))?;
                let mut read = Vec::new();
                match tar::Archive::new(file).entries()?.next() {
                    Some(entry) => entry?.read_to_end(&mut read)?,
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                };
                Ok(read)
            }
            Self::Nowhere(_) => Ok(Vec::new()),
        }
    }
}

/// The files and links of a shard, by their paths. Made only for shards with links.
pub(super) struct Links {
    /// The place of each file, or the path that a link leads to.
    members: HashMap<String, Result<Place, String>>,
}

impl Links {
    /// Reads the headers of the shard at `path`.
    pub(super) fn of(path: &Path) -> Result<Self, DataError> {
        let damaged = |error| damaged(&path.display().to_string(), error);
        let file = File::open(path).map_err(|cause| DataError::io(path, cause))?;
        let mut members = HashMap::new();
        for entry in tar::Archive::new(file).entries_with_seek().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            if let Some(FileMember { name, form }) = FileMember::of(&mut entry).map_err(damaged)? {
                members.insert(plain_name(&name), Place::of(&entry, form));
            }
        }
        Ok(Self { members })
    }

    /// The place to which a link to `target` leads.
    pub(super) fn follow(&self, target: &str) -> Place {
        let mut at = target;
        for _ in 0..MAX_LINKS {
            match self.members.get(at) {
                Some(Ok(place)) => return place.clone(),
                Some(Err(next)) => at = next,
                None => break,
            }
        }
        Place::Nowhere(format!("a link to {target}, which is no file in the shard").into())
    }
}
