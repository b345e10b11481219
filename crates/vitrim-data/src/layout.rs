//! Which of the known layouts a path has, and which splits it offers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::folder::{name_of, subfolders};
use crate::scenes::{SCENES_PATH, SPLITS};

/// The one split of a data set that has none.
pub(crate) const WHOLE: &str = "all";

/// What lies at a path.
#[derive(Debug, PartialEq)]
pub(crate) enum Layout {
    /// A split's name and its folder of images.
    Folders(Vec<(String, PathBuf)>),
    /// A split's name and its parquet files, sorted.
    Parquet(Vec<(String, Vec<PathBuf>)>),
    /// Scenes: a split's name and its seeds.
    Scenes(Vec<(String, Range<u64>)>),
}

impl Layout {
    /// Looks at file names alone; opens nothing.
    pub(crate) fn detect(root: &Path) -> Result<Self, DataError> {
        if root == Path::new(SCENES_PATH) {
            return Ok(Self::Scenes(SPLITS.map(|(name, seeds)| (name.into(), seeds)).to_vec()));
        }
        let kind = std::fs::metadata(root).map_err(|cause| DataError::io(root, cause))?;
        if !kind.is_dir() {
            return Ok(Self::Parquet(vec![(split_of_file(root), vec![root.to_path_buf()])]));
        }
        for folder in [root.to_path_buf(), root.join("data")] {
            let files = parquet_files(&folder)?;
            if !files.is_empty() {
                return Ok(Self::Parquet(by_split(files)));
            }
        }
        Ok(Self::Folders(split_folders(root)?))
    }

    /// The names of the splits: train, validation, test, then the others by name.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Folders(splits) => splits.iter().map(|(name, _)| name.clone()).collect(),
            Self::Parquet(splits) => splits.iter().map(|(name, _)| name.clone()).collect(),
            Self::Scenes(splits) => splits.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The position of `wanted` among [`names`](Self::names); without `wanted`, of the only one.
    pub(crate) fn find(&self, root: &Path, wanted: Option<&str>) -> Result<usize, DataError> {
        let available = self.names();
        let path = root.to_path_buf();
        match wanted {
            None if available.len() == 1 => Ok(0),
            None => Err(DataError::SplitNotNamed { path, available }),
            Some(wanted) => available
                .iter()
                .position(|name| name == wanted)
                .or_else(|| available.iter().position(|name| *name == canonical(wanted)))
                .ok_or(DataError::NoSuchSplit { path, wanted: wanted.to_string(), available }),
        }
    }
}

/// `val` and `valid` are `validation`; other names are their own.
fn canonical(split: &str) -> String {
    match split.to_lowercase().as_str() {
        "val" | "valid" | "validation" => "validation".into(),
        lower @ ("train" | "test") => lower.into(),
        _ => split.into(),
    }
}

fn is_known(split: &str) -> bool {
    matches!(canonical(split).as_str(), "train" | "validation" | "test")
}

/// Train before validation before test before the rest.
fn rank(split: &str) -> usize {
    ["train", "validation", "test"].iter().position(|known| *known == split).unwrap_or(3)
}

/// `train-00000-of-00002.parquet` and `train.parquet` hold `train`; `0000.parquet` holds everything.
fn split_of_file(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let name: Vec<&str> = stem.split('-').take_while(|part| !is_digits(part)).collect();
    if name.is_empty() { WHOLE.into() } else { canonical(&name.join("-")) }
}

fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|cause| DataError::io(folder, cause))? {
        let path = entry.map_err(|cause| DataError::io(folder, cause))?.path();
        let is_parquet = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"));
        if is_parquet && path.is_file() && !name_of(&path).starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn by_split(files: Vec<PathBuf>) -> Vec<(String, Vec<PathBuf>)> {
    let mut splits = BTreeMap::<String, Vec<PathBuf>>::new();
    for file in files {
        splits.entry(split_of_file(&file)).or_default().push(file);
    }
    let mut splits: Vec<_> = splits.into_iter().collect();
    splits.sort_by_key(|(name, _)| rank(name));
    splits
}

/// The split folders in `root`, or `root` itself as the only one.
///
/// A folder with a split's name is a split if all its siblings have such names too, or if it holds
/// folders itself; otherwise it is a class that happens to be called `train`.
fn split_folders(root: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let folders = subfolders(root)?;
    let all_known = folders.iter().all(|folder| is_known(&name_of(folder)));
    let mut splits: Vec<(String, PathBuf)> = Vec::new();
    for folder in folders {
        let raw = name_of(&folder);
        if is_known(&raw) && (all_known || !subfolders(&folder)?.is_empty()) {
            let name = canonical(&raw);
            let taken = splits.iter().any(|(other, _)| *other == name);
            splits.push((if taken { raw } else { name }, folder));
        }
    }
    if splits.is_empty() {
        return Ok(vec![(WHOLE.into(), root.to_path_buf())]);
    }
    splits.sort_by_key(|(name, _)| rank(name));
    Ok(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        dir
    }

    fn names(files: &[&str]) -> Vec<String> {
        Layout::detect(tree(files).path()).unwrap().names()
    }

    #[test]
    fn split_folders_are_told_from_classes() {
        assert_eq!(names(&["test/a/x.png", "val/a/x.png", "train/a/x.png"]), ["train", "validation", "test"]);
        assert_eq!(names(&["train/a/x.png", "annotations/x.xml"]), ["train"]);
        assert_eq!(names(&["train/x.png", "car/x.png"]), ["all"]);
        assert_eq!(names(&["x.png"]), ["all"]);
    }

    #[test]
    fn parquet_names_carry_the_split() {
        let files = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        let dir = tree(&[files[0], files[1], "data/valid-00000-of-00001-ab12.parquet", "README.md"]);
        let Layout::Parquet(splits) = Layout::detect(dir.path()).unwrap() else { panic!("folders") };
        assert_eq!(splits[0], ("train".into(), files.iter().map(|f| dir.path().join(f)).collect()));
        assert_eq!(splits[1].0, "validation");
        for (file, split) in
            [("0000.parquet", "all"), ("test.parquet", "test"), ("my-set-0-of-1.parquet", "my-set")]
        {
            assert_eq!(split_of_file(Path::new(file)), split);
        }
    }

    #[test]
    fn a_missing_split_is_answered_with_those_there_are() {
        let dir = tree(&["train/a/x.png", "val/a/x.png"]);
        let layout = Layout::detect(dir.path()).unwrap();
        assert_eq!(layout.find(dir.path(), Some("valid")).unwrap(), 1);
        let error = layout.find(dir.path(), Some("test")).unwrap_err().to_string();
        assert!(error.contains("no split `test`; it has: train, validation"), "{error}");
        let error = layout.find(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("name one of: train, validation"), "{error}");
    }
}
