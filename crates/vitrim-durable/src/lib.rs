//! Files that are replaced atomically, and folders that one process writes at a time.
//!
//! [`replace`] replaces one file, [`create`] writes one that is not there yet, [`Pair`] replaces two that belong together,
//! and [`FolderLock`] excludes other processes from a folder. Written files survive a crash of the process and of the
//! machine.
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

pub use file::{create, create_folder, is_leftover, move_into_place, remove_leftovers, replace};
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
    /// The operating system's error.
    pub source: std::io::Error,
}

impl FileError {
    /// An error constructor for `map_err` on operations on `path`.
    fn of(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { action, path, source }
    }
}
