//! Images as files: `class/*.jpg` the way torchvision's `ImageFolder` reads them, or a flat folder.

use std::path::{Path, PathBuf};

use vitrim_text::shown;
use walkdir::{DirEntry, WalkDir};

use crate::error::DataError;

/// Lower-case file extensions that count as images.
pub(super) const IMAGE_EXTENSIONS: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"];

/// Folders that systems put beside a user's, in lower case: macOS' archiver, Synology's and QNAP's disks, file systems
/// of Linux and Windows, Python.
const SYSTEM_FOLDERS: [&str; 9] = [
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "@recently-snapshot",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
];

/// The image files of one split, in order of class, then path.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FolderIndex {
    /// The folder to which the paths are relative.
    pub root: PathBuf,
    /// Class names, sorted; a class's index is its position. Empty for a flat folder.
    pub class_names: Vec<String>,
    /// Paths relative to the root: images, and folders that cannot be read, each in place of its images.
    pub paths: Vec<PathBuf>,
    /// One label for each path.
    pub labels: Vec<Option<u32>>,
    /// What was left out or guessed, a line each.
    pub notes: Vec<String>,
}

/// The image files below `path`, sorted, or `path` itself if it is a file. A folder that cannot be read stands in place
/// of its images, so that reading it gives the reason.
///
/// Hidden files and folders (names that start with a dot) and those of the system (`lost+found`, `__MACOSX`) are
/// skipped.
///
/// # Errors
///
/// [`DataError::NotFound`] or [`DataError::Unreadable`] if `path` cannot be read, [`DataError::Empty`]
/// if it is a folder without images.
pub fn list_images(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, DataError> {
    let path = path.as_ref();
    let kind = std::fs::metadata(path).map_err(|cause| DataError::io(path, cause))?;
    if !kind.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let Below { images, unread } = below(path);
    if images.is_empty() && unread.is_empty() {
        return Err(DataError::Empty { path: path.to_path_buf() });
    }
    Ok([images, unread].concat())
}

/// Indexes one split. Every visible sub-folder is a class if any of them holds an image; otherwise the folder is flat
/// and its images have no labels. A class without images keeps its index, as if torchvision's `allow_empty` were set.
/// An image file is a folder of one; a folder that cannot be read is a bad image.
pub(crate) fn index(root: &Path) -> Result<FolderIndex, DataError> {
    let parent = root.parent().unwrap_or(Path::new("")).to_path_buf();
    if !root.is_dir() {
        let mut found = FolderIndex { root: parent, ..FolderIndex::default() };
        found.push(root, None);
        return Ok(found);
    }
    let level = match level(root) {
        Ok(level) => level,
        Err(DataError::Unreadable { .. }) => {
            let mut found = FolderIndex { root: parent, ..FolderIndex::default() };
            found.push(root, None);
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    let mut found = FolderIndex { root: root.to_path_buf(), ..FolderIndex::default() };
    let classes: Vec<Below> = level.folders.iter().map(|class| below(class)).collect();
    if classes.iter().any(|class| !class.images.is_empty())
        || (level.images == 0 && !level.folders.is_empty())
    {
        found.take_classes(&level, classes);
    }
    if found.paths.is_empty() {
        found.class_names.clear();
        found.notes.clear();
        let Below { images, unread } = below(root);
        for path in images.iter().chain(&unread) {
            found.push(path, None);
        }
    }
    if found.paths.is_empty() {
        return Err(DataError::Empty { path: root.to_path_buf() });
    }
    Ok(found)
}

impl FolderIndex {
    fn push(&mut self, path: &Path, label: Option<u32>) {
        self.paths.push(path.strip_prefix(&self.root).unwrap_or(path).to_path_buf());
        self.labels.push(label);
    }

    fn take_classes(&mut self, level: &Level, classes: Vec<Below>) {
        let mut empty = Vec::new();
        for (label, (class, Below { images, unread })) in level.folders.iter().zip(classes).enumerate() {
            if images.is_empty() && unread.is_empty() {
                empty.push(name_of(class));
            }
            for path in images.iter().chain(&unread) {
                self.push(path, u32::try_from(label).ok());
            }
            self.class_names.push(name_of(class));
        }
        let at = self.root.display();
        if !empty.is_empty() {
            let what = if empty.len() == 1 { "a class without images" } else { "classes without images" };
            self.notes.push(format!(
                "{at}: {} counted as {what}: {}",
                if empty.len() == 1 { "is" } else { "are" },
                named(&empty)
            ));
        }
        if level.images > 0 {
            self.notes.push(format!("{at}: images beside the class folders are not read: {}", level.images));
        }
        if !level.broken.is_empty() {
            self.notes
                .push(format!("{at}: links to nothing are not read as classes: {}", named(&level.broken)));
        }
    }
}

/// At most ten of `names`, and how many more there are.
pub(super) fn named(names: &[String]) -> String {
    const MOST: usize = 10;
    let first = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// What lies directly in a folder.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// The visible folders, sorted by name.
    pub(super) folders: Vec<PathBuf>,
    /// Number of image files.
    pub(super) images: usize,
    /// Names of links that lead nowhere and are not called like an image.
    pub(super) broken: Vec<String>,
}

/// What lies directly in `root`.
pub(super) fn level(root: &Path) -> Result<Level, DataError> {
    let unread = |cause| DataError::io(root, cause);
    let mut level = Level::default();
    for entry in std::fs::read_dir(root).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let path = entry.path();
        if is_ignored(&path) {
            continue;
        }
        let own = entry.file_type().map_err(unread)?;
        let kind = if own.is_symlink() {
            std::fs::metadata(&path).map(|target| target.file_type())
        } else {
            Ok(own)
        };
        match kind {
            Ok(kind) if kind.is_dir() => {
                if !own.is_symlink() || !leads_up(&path, root) {
                    level.folders.push(path);
                }
            }
            Ok(kind) => level.images += usize::from(kind.is_file() && has_image_extension(&path)),
            Err(_) if has_image_extension(&path) => level.images += 1,
            Err(_) => level.broken.push(name_of(&path)),
        }
    }
    level.folders.sort();
    level.broken.sort();
    Ok(level)
}

/// What lies below a folder, at any depth.
#[derive(Debug, Default)]
struct Below {
    /// The images, sorted by path; also links that are called like images and lead nowhere.
    images: Vec<PathBuf>,
    /// The folders that cannot be read.
    unread: Vec<PathBuf>,
}

fn below(root: &Path) -> Below {
    let mut found = Below::default();
    for (path, is_folder) in met(walk(root).sort_by_file_name(), root) {
        if is_folder { found.unread.push(path) } else { found.images.push(path) }
    }
    found
}

/// Number of images and of folders that cannot be read below `root`, counted up to `most`.
pub(super) fn count_images(root: &Path, most: usize) -> usize {
    met(walk(root), root).take(most).count()
}

/// The images, and the folders that cannot be read (then `true`), that `entries`, a walk below `root`, meets. Links
/// that lead nowhere count if they are called like an image.
fn met(entries: WalkDir, root: &Path) -> impl Iterator<Item = (PathBuf, bool)> {
    let entries = entries.into_iter().filter_entry(|entry| is_new(entry, root));
    entries.filter_map(|entry| match entry {
        Ok(entry) => is_image(&entry).then(|| (entry.into_path(), false)),
        // A link to a folder that the walk comes from leads to nothing new.
        Err(error) if error.loop_ancestor().is_some() => None,
        Err(error) => {
            let path = error.path().unwrap_or(root);
            let (is_seen, is_folder) = (error.depth() == 0 || !is_ignored(path), path.is_dir());
            (is_seen && (is_folder || has_image_extension(path))).then(|| (path.to_path_buf(), is_folder))
        }
    })
}

/// The entries below `root`; links are followed.
fn walk(root: &Path) -> WalkDir {
    WalkDir::new(root).min_depth(1).follow_links(true)
}

/// Whether a walk below `root` enters `entry`: not what is ignored, nor a link to a folder that the walk comes from.
fn is_new(entry: &DirEntry, root: &Path) -> bool {
    let is_link = entry.path_is_symlink() && entry.file_type().is_dir();
    entry.depth() == 0 || !(is_ignored(entry.path()) || (is_link && leads_up(entry.path(), root)))
}

/// Whether the link at `path` leads to `root` or to a folder above it.
fn leads_up(path: &Path, root: &Path) -> bool {
    match (path.canonicalize(), root.canonicalize()) {
        (Ok(target), Ok(root)) => root.starts_with(target),
        _ => false,
    }
}

fn is_image(entry: &DirEntry) -> bool {
    entry.file_type().is_file() && has_image_extension(entry.path())
}

/// Whether the last component of `path` is hidden, or a folder of the system.
pub(super) fn is_ignored(path: &Path) -> bool {
    let name = name_of(path).to_lowercase();
    name.starts_with('.') || SYSTEM_FOLDERS.contains(&name.as_str())
}

/// Whether the name of `path` ends in one of [`IMAGE_EXTENSIONS`].
pub(super) fn has_image_extension(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| IMAGE_EXTENSIONS.iter().any(|e| e.eq_ignore_ascii_case(extension)))
}

/// The last component of `path` as text, see [`shown`].
pub(super) fn name_of(path: &Path) -> String {
    shown(path.file_name().map_or(path, Path::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
    }

    fn texts(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| shown(path)).collect()
    }

    #[test]
    fn classes_are_the_sorted_folders_even_empty_ones() {
        let dir = tempfile::tempdir().unwrap();
        touch(
            dir.path(),
            &["dog/b.JPG", "dog/a.webp", "cat/deep/x.Jpeg", "cat/notes.txt", ".git/y.png", "loose.png"],
        );
        std::fs::create_dir(dir.path().join("bird")).unwrap();
        let got = index(dir.path()).unwrap();
        assert_eq!(got.class_names, ["bird", "cat", "dog"]);
        assert_eq!(texts(&got.paths), ["cat/deep/x.Jpeg", "dog/a.webp", "dog/b.JPG"]);
        assert_eq!(got.labels, [Some(1), Some(2), Some(2)]);
        assert!(got.notes[0].ends_with(": is counted as a class without images: bird"), "{:?}", got.notes);
        assert!(
            got.notes[1].ends_with(": images beside the class folders are not read: 1"),
            "{:?}",
            got.notes
        );
        assert_eq!(got.notes.len(), 2);
    }

    #[test]
    fn what_systems_and_editors_leave_is_no_class_and_no_image() {
        let dir = tempfile::tempdir().unwrap();
        touch(
            dir.path(),
            &["cat/a.ppm", "cat/b.PGM", "cat/c.jfif", "cat/Thumbs.db", "cat/.DS_Store", "dog/a.png"],
        );
        touch(
            dir.path(),
            &[
                "__MACOSX/cat/x.png",
                "@eaDir/x.png",
                "lost+found/x.png",
                "dog/@eaDir/a.png/SYNOPHOTO_THUMB_M.png",
                "dog/.ipynb_checkpoints/a-checkpoint.png",
                "System Volume Information/x.png",
            ],
        );
        let got = index(dir.path()).unwrap();
        assert_eq!((got.class_names.join(","), got.notes.len()), ("cat,dog".into(), 0));
        assert_eq!(texts(&got.paths), ["cat/a.ppm", "cat/b.PGM", "cat/c.jfif", "dog/a.png"]);
    }

    #[test]
    fn a_flat_folder_has_no_labels() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["b.png", "a.png", "._a.png"]);
        std::fs::create_dir(dir.path().join("results")).unwrap();
        let got = index(dir.path()).unwrap();
        assert!(got.class_names.is_empty());
        assert_eq!(got.paths, [PathBuf::from("a.png"), PathBuf::from("b.png")]);
        assert_eq!(got.labels, [None, None]);
    }

    #[test]
    fn one_image_is_found_again_by_its_root_and_path() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a.png"]);
        let got = index(&dir.path().join("a.png")).unwrap();
        assert_eq!((got.root.join(&got.paths[0]), got.labels), (dir.path().join("a.png"), vec![None]));
        assert_eq!(index(Path::new("a.png")).unwrap().root.join("a.png"), Path::new("a.png"));
    }

    #[cfg(unix)]
    #[test]
    fn links_count_only_where_an_image_or_a_class_is_lost() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["cat/a.png", "dog/b.png"]);
        let link = |to: &str, at: &str| symlink(to, dir.path().join(at)).unwrap();
        link("/nowhere/gone.png", "cat/gone.png");
        link("me@host.1234:1", "cat/.#notes.txt");
        link("/nowhere/.hidden.png", "cat/.hidden.png");
        link("/nowhere/README", "cat/README");
        link("../dog/b.png", "cat/linked.png");
        link("self.png", "dog/self.png");
        link("..", "dog/up");
        link(".", "around");
        let got = index(dir.path()).unwrap();
        assert_eq!((got.class_names.join(","), got.notes.len()), ("cat,dog".into(), 0));
        assert_eq!(
            texts(&got.paths),
            ["cat/a.png", "cat/gone.png", "cat/linked.png", "dog/b.png", "dog/self.png"]
        );
        assert_eq!(list_images(dir.path()).unwrap().len(), 5);
        link("/nowhere/fox", "fox");
        let notes = index(dir.path()).unwrap().notes;
        assert!(notes[0].ends_with(": links to nothing are not read as classes: fox"), "{notes:?}");
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf8_stay_apart() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"caf\xe8"[..], b"caf\xe9"] {
            let class = dir.path().join(OsStr::from_bytes(name));
            std::fs::create_dir(&class).unwrap();
            std::fs::write(class.join(OsStr::from_bytes(b"\xff.png")), b"x").unwrap();
        }
        let got = index(dir.path()).unwrap();
        assert_eq!(got.class_names, ["caf\\xe8", "caf\\xe9"]);
        assert!(got.root.join(&got.paths[1]).is_file());
    }

    #[test]
    fn listing_takes_a_file_or_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["x/b.png", "a.jpg", "a.txt"]);
        assert_eq!(list_images(dir.path()).unwrap(), [dir.path().join("a.jpg"), dir.path().join("x/b.png")]);
        let one = dir.path().join("a.jpg");
        assert_eq!(list_images(&one).unwrap(), [one]);
        assert!(matches!(list_images(dir.path().join("no")), Err(DataError::NotFound { .. })));
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        assert!(matches!(list_images(dir.path().join("empty")), Err(DataError::Empty { .. })));
    }
}
