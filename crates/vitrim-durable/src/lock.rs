//! A lock on a folder, so that one process writes it at a time.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{FileError, create_folder};

/// The file that is locked. It is never removed, because two processes could then lock two files of this name.
const FILE: &str = ".lock";

/// The exclusive right to write a folder, until it is dropped or the process ends, killed or not: the operating
/// system releases it.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// A folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The folder, or the lock file in it, could not be created.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process or thread has locked the folder.
    #[error("{}: another vitrim run is writing there; wait until it ends, or give another folder", .0.display())]
    Busy(PathBuf),
}

impl FolderLock {
    /// Locks `folder`, which is created if it is missing, against other callers: other processes, and other threads
    /// of this process. If the file system does not support locks, no caller is excluded.
    ///
    /// # Errors
    /// [`LockError::Busy`] at once if the folder is locked; [`LockError::File`] if it cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        create_folder(folder)?;
        let path = folder.join(FILE);
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(FileError::of("write", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Busy(folder.to_owned())),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(FileError::of("lock", &path)(error).into()),
        }
        Ok(FolderLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_folder_is_locked_once_until_the_lock_is_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        let lock = FolderLock::acquire(&folder).unwrap();
        let error = FolderLock::acquire(&folder).unwrap_err().to_string();
        assert!(
            error.contains("run: another vitrim run is writing there") && !error.contains('\n'),
            "{error}"
        );
        drop(lock);
        FolderLock::acquire(&folder).unwrap();
    }

    /// The child process of the test below; does nothing when it is run as a test itself.
    #[test]
    fn child_that_holds_a_lock() {
        let Ok(folder) = std::env::var("VITRIM_TEST_LOCK") else { return };
        let _lock = FolderLock::acquire(Path::new(&folder)).unwrap();
        println!("\nlocked");
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[test]
    fn a_killed_process_frees_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::child_that_holds_a_lock", "--nocapture"])
            .env("VITRIM_TEST_LOCK", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "locked"));
        assert!(matches!(FolderLock::acquire(folder.path()), Err(LockError::Busy(_))));
        child.kill().unwrap();
        child.wait().unwrap();
        FolderLock::acquire(folder.path()).unwrap();
    }
}
