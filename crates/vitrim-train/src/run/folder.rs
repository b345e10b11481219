//! A run's folder, which only one run writes at a time.

use std::path::{Path, PathBuf};

use vitrim_durable::{FolderLock, remove_leftovers};
use vitrim_ranks::Ranks;

use super::{checkpoint, log};
use crate::error::Result;

/// A folder that is locked against other runs until this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// `None` if rank 0 has it.
    _lock: Option<FolderLock>,
}

impl RunFolder {
    /// Locks the folder at `path`, creates it if it is missing, and removes incomplete files of a killed run.
    ///
    /// # Errors
    /// If another run has locked it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = FolderLock::acquire(path)?;
        let policy = ["policy/policy.json", "policy/policy.safetensors.new", "policy/seen.safetensors"];
        for file in [checkpoint::FILE, log::FILE, "model/model.safetensors"].into_iter().chain(policy) {
            remove_leftovers(&path.join(file))?;
        }
        Ok(RunFolder { path: path.to_owned(), _lock: Some(lock) })
    }

    /// The folder as one of `ranks` has it: rank 0 opens it; the others, who neither read nor write it, only name it.
    ///
    /// # Errors
    /// As [`RunFolder::open`].
    pub fn among(ranks: &Ranks, path: &Path) -> Result<Self> {
        if ranks.is_first() { Self::open(path) } else { Ok(RunFolder { path: path.to_owned(), _lock: None }) }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
