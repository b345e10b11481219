//! Whether a file is still the one that was indexed: its places and labels are those of that file.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use crate::error::DataError;

/// The length and the time of the last change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    bytes: u64,
    /// `None` if the file system does not say.
    modified: Option<SystemTime>,
}

impl Stamp {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> Result<(File, Self), DataError> {
        let io = |cause| DataError::io(path, cause);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        Ok((file, Stamp { bytes: metadata.len(), modified: metadata.modified().ok() }))
    }

    /// Opens the file at `path` again.
    ///
    /// # Errors
    ///
    /// [`DataError::Changed`] if it is another file, or has been written since.
    pub(super) fn reopen(self, path: &Path) -> Result<File, DataError> {
        let (file, now) = Self::open(path)?;
        if now == self { Ok(file) } else { Err(DataError::Changed { path: path.to_path_buf() }) }
    }

    /// Length of the file, bytes.
    pub(super) fn bytes(self) -> u64 {
        self.bytes
    }
}
