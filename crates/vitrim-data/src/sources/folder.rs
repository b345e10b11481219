//! Images as files: `class/*.jpg` the way torchvision's `ImageFolder` reads them, or a flat folder.

use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::error::DataError;

/// Lower-case file extensions that count as images.
pub(super) const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// The image files of one split, in order of class, then path.
#[derive(Debug, PartialEq)]
pub(crate) struct FolderIndex {
    /// Class names, sorted; a class's index is its position. Empty for a flat folder.
    pub class_names: Vec<String>,
    /// Paths relative to the split's folder.
    pub paths: Vec<PathBuf>,
    /// One label for each path.
    pub labels: Vec<Option<u32>>,
}

/// The image files below `path`, sorted, or `path` itself if it is a file.
///
/// Hidden files and folders (names that start with a dot) are skipped.
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
    let images = images_below(path)?;
    if images.is_empty() {
        return Err(DataError::Empty { path: path.to_path_buf() });
    }
    Ok(images)
}

/// Indexes one split. Every visible sub-folder is a class if any of them holds an image; otherwise
/// the folder is flat and its images have no labels. An image file is a folder of one.
pub(crate) fn index(root: &Path) -> Result<FolderIndex, DataError> {
    let mut found = FolderIndex { class_names: Vec::new(), paths: Vec::new(), labels: Vec::new() };
    if !root.is_dir() {
        found.push(Path::new(""), root, None);
        return Ok(found);
    }
    let classes = subfolders(root)?;
    for (label, class) in classes.iter().enumerate() {
        for path in images_below(class)? {
            found.push(root, &path, u32::try_from(label).ok());
        }
        found.class_names.push(name_of(class));
    }
    if found.paths.is_empty() {
        found.class_names.clear();
        for path in images_below(root)? {
            found.push(root, &path, None);
        }
    }
    if found.paths.is_empty() {
        return Err(DataError::Empty { path: root.to_path_buf() });
    }
    Ok(found)
}

impl FolderIndex {
    fn push(&mut self, root: &Path, path: &Path, label: Option<u32>) {
        self.paths.push(path.strip_prefix(root).unwrap_or(path).to_path_buf());
        self.labels.push(label);
    }
}

/// The visible folders directly in `root`, sorted by name.
pub(super) fn subfolders(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    walk(root, 1, |entry| entry.file_type().is_dir())
}

fn images_below(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    walk(root, usize::MAX, |entry| entry.file_type().is_file() && has_image_extension(entry.path()))
}

/// The entries below `root` that `wanted` accepts, sorted by path; links are followed.
fn walk(root: &Path, depth: usize, wanted: impl Fn(&DirEntry) -> bool) -> Result<Vec<PathBuf>, DataError> {
    let visible =
        |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.');
    let mut paths = Vec::new();
    let entries = WalkDir::new(root).min_depth(1).max_depth(depth).follow_links(true);
    for entry in entries.sort_by_file_name().into_iter().filter_entry(visible) {
        let entry = entry.map_err(|error| {
            let at = error.path().unwrap_or(root).to_path_buf();
            DataError::io(&at, error.into())
        })?;
        if wanted(&entry) {
            paths.push(entry.into_path());
        }
    }
    Ok(paths)
}

/// Whether the name of `path` ends in one of [`IMAGE_EXTENSIONS`].
pub(super) fn has_image_extension(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| IMAGE_EXTENSIONS.iter().any(|e| e.eq_ignore_ascii_case(extension)))
}

/// The last component of `path`, for messages.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy()).into_owned()
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
        let paths: Vec<_> = got.paths.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        assert_eq!(paths, ["cat/deep/x.Jpeg", "dog/a.webp", "dog/b.JPG"]);
        assert_eq!(got.labels, [Some(1), Some(2), Some(2)]);
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
