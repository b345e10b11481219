//! Files that are replaced whole or not at all, and folders that one process writes at a time.
//!
//! [`replace`] replaces one file, [`Pair`] two that belong together, [`FolderLock`] keeps other processes out of a
//! folder. What they have written survives a crash of the process and of the machine.
//!
//! ```
//! let folder = tempfile::tempdir().expect("a temporary folder");
//! let _lock = vitrim_durable::FolderLock::acquire(folder.path())?;
//! vitrim_durable::replace(&folder.path().join("config.toml"), b"updates = 3")?;
//! # Ok::<(), vitrim_durable::LockError>(())
//! ```

mod file;
mod lock;
mod pair;

use std::path::{Path, PathBuf};

pub use file::{move_into_place, remove_leftovers, replace};
pub use lock::{FolderLock, LockError};
pub use pair::Pair;

/// A file or folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct FileError {
    /// "create", "read" or "write".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: std::io::Error,
}

impl FileError {
    /// For `map_err` on operations on `path`.
    fn of(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { action, path, source }
    }
}
