//! A run's folder, which one run writes at a time.

use std::path::{Path, PathBuf};

use vitrim_durable::{FolderLock, remove_leftovers};

use super::{checkpoint, log};
use crate::error::Result;

/// A folder that nobody else writes, until this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// Locks the folder at `path`, which is made where it is missing, and removes what a killed run left half written.
    ///
    /// # Errors
    /// If another run has it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = FolderLock::acquire(path)?;
        for file in [checkpoint::FILE, log::FILE, "model/model.safetensors"] {
            remove_leftovers(&path.join(file))?;
        }
        Ok(RunFolder { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
