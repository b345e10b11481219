//! Replaces one file atomically and durably.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::FileError;

/// Suffix of a file that is being written.
const PART: &str = ".part";

/// Writes `bytes` to `path`. A reader finds either the old content or all of `bytes`, also after a crash of the
/// process or the machine. Several threads and processes may replace one file at once; the last one wins.
///
/// The bytes go into a new file next to `path`, which is synced and renamed; then the folder is synced (the order of
/// <https://lwn.net/Articles/457667/>). A process that is killed leaves that file behind, see [`remove_leftovers`].
///
/// # Errors
/// If the file cannot be written; the old content then stays.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let replaced = || -> io::Result<()> {
        written_beside(path, bytes)?.into_temp_path().persist(path)?;
        sync_folder(parent(path))
    };
    replaced().map_err(FileError::of("write", path))
}

/// Writes `bytes` to `path` unless there is a file already; returns whether it was written. Of several threads and processes
/// that create one file at once, one does. A reader finds no file or all of `bytes`.
///
/// # Errors
/// If the file cannot be written.
pub fn create(path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
    let created = || -> io::Result<bool> {
        match written_beside(path, bytes)?.into_temp_path().persist_noclobber(path) {
            Ok(()) => sync_folder(parent(path)).map(|()| true),
            Err(there) if there.error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    };
    created().map_err(FileError::of("write", path))
}

/// Creates `folder`, and those that lead to it, unless they are there.
///
/// # Errors
/// If it cannot be created.
pub fn create_folder(folder: &Path) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(FileError::of("create", folder))
}

/// Renames `part`, which is open as `file` and completely written, to `path` on the same file system, as durably as
/// [`replace`].
///
/// # Errors
/// If the bytes cannot be synced or the file cannot be renamed.
pub fn move_into_place(file: &File, part: &Path, path: &Path) -> Result<(), FileError> {
    file.sync_all().map_err(FileError::of("write", part))?;
    rename(part, path).map_err(FileError::of("write", path))
}

/// Removes the files that replacements of `path` left behind when their process was killed. The caller must be the
/// only writer of `path`, under a [`FolderLock`](crate::FolderLock).
///
/// # Errors
/// If the folder cannot be read, or a file cannot be removed.
pub fn remove_leftovers(path: &Path) -> Result<(), FileError> {
    let folder = parent(path);
    let remove = || -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if is_leftover(&entry.file_name(), path) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    match remove() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(FileError::of("write", folder)),
    }
}

/// Whether a file next to `path`, called `name`, is one that a killed replacement of `path` left behind.
pub fn is_leftover(name: &OsStr, path: &Path) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(part_prefix(path).as_encoded_bytes()) && name.ends_with(PART.as_bytes())
}

/// Renames durably.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(parent(to))
}

/// A temporary file next to `path` with `bytes`, synced.
fn written_beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let prefix = part_prefix(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(PART);
    // With the permissions of an ordinary new file, not of a private temporary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut part = builder.tempfile_in(parent(path))?;
    part.write_all(bytes)?;
    part.as_file().sync_all()?;
    Ok(part)
}

fn part_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes renames in `folder` durable. Some file systems cannot sync a folder, and neither can Windows.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        // A folder cannot be replaced by a file: the last step fails.
        let path = folder.path().join("a.json");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        let error = replace(&path, b"new").unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "what was written beside it is gone");
    }

    #[test]
    #[cfg(unix)]
    fn the_mode_is_that_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        fs::write(folder.path().join("plain"), b"").unwrap();
        replace(&folder.path().join("replaced"), b"").unwrap();
        assert_eq!(mode("replaced"), mode("plain"));
    }

    #[test]
    fn many_threads_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        replace(path, &[thread; 1000]).unwrap();
                        let found = fs::read(path).unwrap();
                        assert!(found.len() == 1000 && found.iter().all(|byte| *byte == found[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_many_threads_that_create_a_file_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let created: Vec<u8> = std::thread::scope(|scope| {
            let path = &path;
            let threads =
                [0, 1, 2, 3].map(|thread: u8| scope.spawn(move || create(path, &[thread; 1000]).unwrap()));
            (0..).zip(threads).filter_map(|(thread, done)| done.join().unwrap().then_some(thread)).collect()
        });
        assert_eq!(created.len(), 1);
        assert_eq!(fs::read(&path).unwrap(), vec![created[0]; 1000]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "what the others wrote is gone");
    }

    #[test]
    fn leftovers_of_one_file_are_removed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let keep = ["a.json", ".a.json.x", ".ab.json.x.part", "a.json.part"];
        for name in keep.iter().chain(&[".a.json.Xy12.part"]) {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        remove_leftovers(&folder.path().join("a.json")).unwrap();
        assert!(keep.iter().all(|name| folder.path().join(name).is_file()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), keep.len());
        remove_leftovers(&folder.path().join("no/such/a.json")).unwrap();
    }
}
