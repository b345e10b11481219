//! Folders that are splits of a data set, told from folders that are classes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::folder::{Level, count_images, level, name_of, named};
use super::split_names::{WHOLE, known, rank, split_in_name};
use crate::error::DataError;

/// The splits of a folder of images.
#[derive(Debug, PartialEq)]
pub(super) struct SplitFolders {
    /// Each split's name and folder: train, validation, test, then the others by name. If there are no split folders,
    /// the whole folder.
    pub(super) splits: Vec<(String, PathBuf)>,
    /// What was left out or guessed, a line each.
    pub(super) notes: Vec<String>,
}

impl SplitFolders {
    /// Whether there are split folders.
    pub(super) fn is_split(&self) -> bool {
        self.splits.first().is_some_and(|(name, _)| name != WHOLE)
    }
}

/// How surely the name of a folder names a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Naming {
    /// `test`.
    Canonical,
    /// `Testing`.
    Spelling,
    /// `test_set`.
    Word,
}

struct Candidate {
    split: &'static str,
    naming: Naming,
    folder: PathBuf,
}

impl Candidate {
    fn of(folder: &Path) -> Option<Self> {
        let name = name_of(folder);
        let of = |split, naming| Some(Self { split, naming, folder: folder.to_path_buf() });
        match known(&name) {
            Some(split) if split == name => of(split, Naming::Canonical),
            Some(split) => of(split, Naming::Spelling),
            None => split_in_name(&name).and_then(|split| of(split, Naming::Word)),
        }
    }
}

/// The split folders in `root`, or `root` itself as the only one.
///
/// A folder with a split's name is a split if all its siblings with images have such names too, if another split stands
/// beside it, or if it holds folders itself; otherwise it is a class that happens to be called `train`. A folder with a
/// split's name as a word of its own, as `test_set`, is one only beside another split.
pub(super) fn find(root: &Path) -> Result<SplitFolders, DataError> {
    let level = level(root)?;
    let mut notes = Vec::new();
    let splits = split_folders(root, &level, &mut notes);
    if !splits.is_empty() {
        return Ok(SplitFolders { splits, notes });
    }
    // An archive's own folder, or the Hub's `data`, around the splits.
    if let ([only], 0) = (level.folders.as_slice(), level.images)
        && let Ok(inner) = find(only)
        && inner.is_split()
    {
        return Ok(inner);
    }
    Ok(SplitFolders { splits: vec![(WHOLE.into(), root.to_path_buf())], notes: Vec::new() })
}

fn split_folders(root: &Path, level: &Level, notes: &mut Vec<String>) -> Vec<(String, PathBuf)> {
    let mut candidates: Vec<_> = level.folders.iter().filter_map(|folder| Candidate::of(folder)).collect();
    if candidates.is_empty() {
        return Vec::new();
    }
    let is_candidate = |folder: &&PathBuf| candidates.iter().any(|candidate| candidate.folder == **folder);
    let others: Vec<&PathBuf> = level.folders.iter().filter(|folder| !is_candidate(folder)).collect();
    let others_have_images = others.iter().any(|folder| count_images(folder, 1) > 0);
    let different: BTreeSet<_> = candidates.iter().map(|candidate| candidate.split).collect();
    let named_outright: BTreeSet<_> =
        candidates.iter().filter(|c| c.naming < Naming::Word).map(|candidate| candidate.split).collect();
    candidates.sort_by_key(|candidate| candidate.naming);

    let mut splits: Vec<(String, PathBuf)> = Vec::new();
    let mut unused: Vec<PathBuf> = others.into_iter().cloned().collect();
    for Candidate { split, naming, folder } in candidates {
        let name = name_of(&folder);
        let is_split = match naming {
            Naming::Word => different.len() > 1 && (!others_have_images || holds_folders(&folder)),
            _ => !others_have_images || named_outright.len() > 1 || holds_folders(&folder),
        };
        let taken = splits.iter().any(|(other, _)| other == split);
        if !is_split || (taken && naming == Naming::Word) {
            unused.push(folder);
            continue;
        }
        let read_as = if taken { name.clone() } else { split.to_owned() };
        if taken || naming == Naming::Word {
            notes.push(format!("{}: folder {name} is read as the split `{read_as}`", root.display()));
        }
        splits.push((read_as, unwrapped(folder)));
    }
    // An empty folder called `test` beside images is left over.
    if splits.iter().all(|(_, folder)| count_images(folder, 1) == 0) {
        notes.clear();
        return Vec::new();
    }
    splits.sort_by_key(|(name, _)| rank(name));
    unused.sort();
    let unused: Vec<String> =
        unused.iter().filter(|folder| count_images(folder, 1) > 0).map(|folder| name_of(folder)).collect();
    let mut note = |what: &str, names: &str| {
        notes.push(format!("{}: {what} beside the split folders are not read: {names}", root.display()));
    };
    if !unused.is_empty() {
        note("folders with images", &named(&unused));
    }
    if level.images > 0 {
        note("images", &level.images.to_string());
    }
    if !level.broken.is_empty() {
        note("links to nothing", &named(&level.broken));
    }
    splits
}

/// Whether there are visible folders in `folder`, or it cannot be read.
fn holds_folders(folder: &Path) -> bool {
    level(folder).map_or(true, |level| !level.folders.is_empty())
}

/// The innermost of folders that hold nothing but a folder of their own name, as `training_set/training_set`.
fn unwrapped(mut folder: PathBuf) -> PathBuf {
    while let Ok(Level { folders, images: 0, .. }) = level(&folder)
        && let [only] = folders.as_slice()
        && only.file_name() == folder.file_name()
    {
        folder = only.clone();
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The splits and notes of a tree of files.
    fn found(files: &[&str]) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match file.ends_with('/') {
                true => std::fs::create_dir_all(path).unwrap(),
                false => std::fs::write(path, b"x").unwrap(),
            }
        }
        let SplitFolders { splits, notes } = find(dir.path()).unwrap();
        let root = format!("{}: ", dir.path().display());
        let notes = notes.iter().map(|note| note.strip_prefix(&root).unwrap().to_owned()).collect();
        (splits.into_iter().map(|(name, _)| name).collect(), notes)
    }

    #[track_caller]
    fn assert_splits(files: &[&str], splits: &[&str]) {
        assert_eq!(found(files), (splits.iter().map(|s| (*s).to_owned()).collect(), vec![]), "{files:?}");
    }

    #[test]
    fn split_folders_are_told_from_classes() {
        assert_splits(&["test/a/x.png", "val/a/x.png", "train/a/x.png"], &["train", "validation", "test"]);
        assert_splits(&["Training/a/x.png", "Testing/a/x.png"], &["train", "test"]);
        assert_splits(&["TRAIN/a/x.png", "Dev/a/x.png", "Test/a/x.png"], &["train", "validation", "test"]);
        assert_splits(&["train/a/x.png", "evaluation/a/x.png"], &["train", "test"]);
        assert_splits(&["train/a/x.png", "annotations/x.xml"], &["train"]);
        assert_splits(&["train/x.png", "annotations/x.xml", "empty/"], &["train"]);
        assert_splits(&["train/x.png", "car/x.png"], &["all"]);
        assert_splits(&["test/a.jpg", "contest/a.jpg"], &["all"]);
        assert_splits(&["bullet train/a.jpg", "steam train/a.jpg"], &["all"]);
        assert_splits(&["train station/a.jpg", "test tube/a.jpg", "cat/a.jpg"], &["all"]);
        assert_splits(&["x.png"], &["all"]);
        assert_splits(
            &["set/Training/a/x.png", "set/Testing/a/x.png", "__MACOSX/set/._x.png"],
            &["train", "test"],
        );
        assert_splits(&["cat/x.png", "cat/deep/x.png"], &["all"]);
        assert_splits(&["x.png", "test/"], &["all"]);
    }

    #[test]
    fn what_is_guessed_or_left_out_is_said() {
        let said = |files: &[&str]| {
            let (splits, notes) = found(files);
            (splits.join(","), notes.join("; "))
        };
        let beside = |what: &str| format!("{what} beside the split folders are not read");
        assert_eq!(
            said(&["train/a/x.png", "test/a/x.png", "extra/a/x.png", "x.png"]),
            (
                "train,test".into(),
                format!("{}: extra; {}: 1", beside("folders with images"), beside("images"))
            )
        );
        assert_eq!(
            said(&["train/x.png", "test/x.png", "car/x.png"]).0,
            "train,test",
            "two splits are no classes"
        );
        assert_eq!(
            said(&["train2017/x.png", "val2017/x.png"]),
            (
                "train,validation".into(),
                "folder train2017 is read as the split `train`; folder val2017 is read as the split `validation`".into()
            )
        );
        let (splits, notes) =
            said(&["seg_train/seg_train/a/x.png", "seg_test/seg_test/a/x.png", "seg_pred/x.png"]);
        assert_eq!(splits, "train,test");
        assert!(notes.ends_with(&format!("{}: seg_pred", beside("folders with images"))), "{notes}");
        assert_eq!(
            said(&["val/a/x.png", "valid/a/x.png", "train/a/x.png", "train_old/a/x.png"]),
            (
                "train,validation,valid".into(),
                format!(
                    "folder valid is read as the split `valid`; {}: train_old",
                    beside("folders with images")
                )
            )
        );
    }

    #[test]
    fn a_folder_around_a_split_of_its_own_name_is_seen_through() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["train/train/a", "test/test/a"] {
            std::fs::create_dir_all(dir.path().join(class)).unwrap();
            std::fs::write(dir.path().join(class).join("x.png"), b"x").unwrap();
        }
        let found = find(dir.path()).unwrap();
        assert_eq!(found.splits[1], ("test".to_owned(), dir.path().join("test/test")));
    }
}
