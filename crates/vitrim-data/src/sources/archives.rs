//! Archives in a folder of images: those that vitrim reads, and which of two layouts counts if both lie there.

use std::path::{Path, PathBuf};

use super::folder::{count_images, is_ignored, level, name_of, named};
use super::split_folders::SplitFolders;
use crate::error::DataError;

/// Ends of the names of archives that vitrim does not read, in lower case.
const FOREIGN: [&str; 11] = [
    ".zip", ".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z",
];

/// Whether the images of `root`, whose splits are `folders`, are those of the data set, and not `archives`, tar shards
/// in the same place: an archive is often left beside the folders that it was unpacked to, and a few pictures often lie
/// beside shards. The images count if there are split folders, at least two other folders, or a folder called like an
/// archive, with images in them, or more images than archives.
pub(super) fn are_left_over(
    root: &Path,
    folders: &SplitFolders,
    archives: &[PathBuf],
) -> Result<bool, DataError> {
    let more_than_archives = |folder: &Path| count_images(folder, archives.len() + 1) > archives.len();
    if folders.is_split() {
        return Ok(folders.splits.iter().any(|(_, folder)| more_than_archives(folder)));
    }
    let level = level(root)?;
    let with_images: Vec<&PathBuf> =
        level.folders.iter().filter(|folder| count_images(folder, 1) > 0).collect();
    let is_unpacked = |folder: &&PathBuf| archives.iter().any(|archive| name_of(folder) == stem(archive));
    Ok(with_images.len() > 1 || with_images.iter().any(is_unpacked) || level.images > archives.len())
}

/// The name of an archive without its extensions.
fn stem(archive: &Path) -> String {
    let name = name_of(archive);
    let lower = name.to_lowercase();
    let end = [".tar.gz", ".tgz", ".tar"].into_iter().find(|end| lower.ends_with(end)).unwrap_or_default();
    name[..name.len() - end.len()].to_owned()
}

/// The names of the archives directly in `root` that vitrim does not read, sorted.
pub(super) fn foreign(root: &Path) -> Result<Vec<String>, DataError> {
    let unread = |cause| DataError::io(root, cause);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        if !is_ignored(&path) && is_foreign(&path) && path.is_file() {
            names.push(name_of(&path));
        }
    }
    names.sort();
    Ok(names)
}

fn is_foreign(path: &Path) -> bool {
    let name = name_of(path).to_lowercase();
    FOREIGN.iter().any(|end| name.ends_with(end))
}

/// The note that the images of `root` are read, and not the archives called `names`.
pub(super) fn note_left_over(root: &Path, names: &[String]) -> String {
    let names = named(names);
    format!("{}: the images are read, not the archives beside them: {names}", root.display())
}

/// The note that the archives of `root` are read, and not the images beside them; `None` if there are none.
pub(super) fn note_images(root: &Path, archives: &[PathBuf]) -> Option<String> {
    let kind = archives.first().map(|archive| name_of(archive))?;
    let note =
        || format!("{}: the shards are read ({kind}, ...), not the images beside them", root.display());
    (count_images(root, 1) > 0).then(note)
}
