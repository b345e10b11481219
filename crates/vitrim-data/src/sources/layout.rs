//! The kind of data set at a path, and its splits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::archives::{are_left_over, foreign, note_images, note_left_over};
use super::braces;
use super::folder::{count_images, has_image_extension, is_ignored, level, name_of};
use super::list::ListKind;
use super::metadata::{splits_of_table, table_kind};
use super::split_folders::{self, SplitFolders};
use super::split_names::{STREAM, WHOLE, canonical, known, rank, split_in_name};
use super::tar::{Input, is_compressed, is_pipe};
use crate::error::DataError;
use crate::limits::MAX_PATTERN_NAMES;
use crate::scenes::{SCENES_PATH, SPLITS};

/// The path that stands for standard input.
pub(crate) const STDIN_PATH: &str = "-";

/// Each split's name and its shards, sorted.
type Shards = Vec<(String, Vec<PathBuf>)>;

/// The kind of data set that lies at a path, with the files of each split.
#[derive(Debug, PartialEq)]
pub(crate) enum DatasetLayout {
    /// A split's name and its folder of images, or its only image.
    Folders(Vec<(String, PathBuf)>),
    /// Parquet files.
    Parquet(Shards),
    /// Tar shards with random access.
    Tar(Shards),
    /// A list of image files.
    List(String, PathBuf, ListKind),
    /// Hugging Face's metadata table, and its splits, each with the folder of its rows.
    Table(Vec<(String, Option<String>)>, PathBuf, ListKind),
    /// Streams of tar shards.
    Stream(Vec<Input>),
    /// Scenes: a split's name and its seeds.
    Scenes(Vec<(String, Range<u64>)>),
}

/// The kind of a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Image,
    Parquet,
    Tar,
    CompressedTar,
    List(ListKind),
}

impl FileKind {
    fn of(path: &Path) -> Option<Self> {
        let has = |end: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
        match () {
            () if has("parquet") => Some(Self::Parquet),
            () if has("tar") => Some(Self::Tar),
            () if is_compressed(path) => Some(Self::CompressedTar),
            () if has_image_extension(path) => Some(Self::Image),
            () => ListKind::of(path).map(Self::List),
        }
    }
}

impl DatasetLayout {
    /// Detects the kind from file names alone; opens no file but metadata tables. What is guessed or left out is added
    /// to `notes`, a line each.
    pub(crate) fn detect(root: &Path, notes: &mut Vec<String>) -> Result<Self, DataError> {
        if root == Path::new(SCENES_PATH) {
            return Ok(Self::Scenes(SPLITS.map(|(name, seeds)| (name.into(), seeds)).to_vec()));
        }
        if root == Path::new(STDIN_PATH) {
            return Ok(Self::Stream(vec![Input::Stdin]));
        }
        let kind = match std::fs::metadata(root) {
            Ok(kind) => kind,
            Err(cause) => match root.to_str().filter(|pattern| braces::is_pattern(pattern)) {
                Some(pattern) => return Self::of_pattern(pattern),
                None => return Err(DataError::io(root, cause)),
            },
        };
        if is_pipe(&kind) {
            return Ok(Self::Stream(vec![Input::Pipe(root.to_path_buf())]));
        }
        if let Some(kind) = table_kind(root).filter(|_| kind.is_file()) {
            return Ok(Self::Table(splits_of_table(root, kind)?, root.to_path_buf(), kind));
        }
        if !kind.is_dir() {
            return Self::of_files(vec![root.to_path_buf()])
                .unwrap_or_else(|| Err(DataError::UnknownKind { path: root.to_path_buf() }));
        }
        Self::of_folder(root, notes)
    }

    /// The data set in the folder `root`. Shards are sought first; images that lie beside tar shards count if the
    /// shards were left over when they were unpacked.
    fn of_folder(root: &Path, notes: &mut Vec<String>) -> Result<Self, DataError> {
        if let Some(splits) = shards_below(root, FileKind::Parquet)? {
            return Ok(Self::Parquet(splits));
        }
        let folders = split_folders::find(root)?;
        let shards = match shards_below(root, FileKind::Tar)? {
            Some(splits) => Some((FileKind::Tar, splits)),
            None => {
                shards_below(root, FileKind::CompressedTar)?.map(|splits| (FileKind::CompressedTar, splits))
            }
        };
        let Some((kind, splits)) = shards else {
            return Self::of_images(root, folders, foreign(root)?, notes);
        };
        let archives: Vec<PathBuf> = splits.iter().flat_map(|(_, files)| files.clone()).collect();
        if are_left_over(root, &folders, &archives)? {
            let names = archives.iter().map(|archive| name_of(archive)).chain(foreign(root)?).collect();
            return Self::of_images(root, folders, names, notes);
        }
        notes.extend(note_images(root, &archives));
        match (kind, splits.as_slice()) {
            (FileKind::Tar, _) => Ok(Self::Tar(splits)),
            (_, [_]) => Ok(Self::Stream(archives.into_iter().map(Input::File).collect())),
            _ => Err(DataError::Pattern {
                pattern: root.display().to_string(),
                what: "has compressed shards of several splits; name those of one, as in \
                       'folder/train-{000..009}.tar.gz'"
                    .into(),
            }),
        }
    }

    /// The images in `folders`; the `archives` beside them are not read.
    fn of_images(
        root: &Path,
        folders: SplitFolders,
        archives: Vec<String>,
        notes: &mut Vec<String>,
    ) -> Result<Self, DataError> {
        notes.extend(folders.notes);
        if let Some(first) = archives.first() {
            if count_images(root, 1) == 0 {
                return Err(DataError::Packed { path: root.to_path_buf(), archive: first.clone() });
            }
            notes.push(note_left_over(root, &archives));
        }
        Ok(Self::Folders(folders.splits))
    }

    /// The shards that `pattern` stands for.
    fn of_pattern(pattern: &str) -> Result<Self, DataError> {
        let refuse = |what: &str| DataError::Pattern { pattern: pattern.into(), what: what.into() };
        let names = braces::expand(pattern)
            .ok_or_else(|| refuse(&format!("stands for more than {MAX_PATTERN_NAMES} files")))?;
        let files: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
        for file in &files {
            std::fs::metadata(file).map_err(|cause| DataError::io(file, cause))?;
        }
        Self::of_files(files).unwrap_or_else(|| {
            Err(refuse(
                "stands for files of an unknown kind, or of several; give .tar, .tar.gz or .parquet shards",
            ))
        })
    }

    /// The data set that consists of `files`, which must exist; `None` if they are of several kinds or of an unknown
    /// kind.
    fn of_files(files: Vec<PathBuf>) -> Option<Result<Self, DataError>> {
        let kind = FileKind::of(files.first()?)?;
        if !files.iter().all(|file| FileKind::of(file) == Some(kind)) {
            return None;
        }
        Some(Ok(match (kind, files.as_slice()) {
            (FileKind::Parquet, _) => Self::Parquet(by_split(files, kind)),
            (FileKind::Tar, _) => Self::Tar(by_split(files, kind)),
            (FileKind::CompressedTar, _) => Self::Stream(files.into_iter().map(Input::File).collect()),
            (FileKind::List(kind), [list]) => {
                let split = split_in_name(&name_of(list)).unwrap_or(WHOLE);
                Self::List(split.into(), list.clone(), kind)
            }
            (FileKind::Image, [image]) => Self::Folders(vec![(WHOLE.into(), image.clone())]),
            _ => return None,
        }))
    }

    /// The names of the splits: train, validation, test, then the others by name.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Folders(splits) => splits.iter().map(|(name, _)| name.clone()).collect(),
            Self::Parquet(splits) | Self::Tar(splits) => {
                splits.iter().map(|(name, _)| name.clone()).collect()
            }
            Self::List(name, ..) => vec![name.clone()],
            Self::Table(splits, ..) => splits.iter().map(|(name, _)| name.clone()).collect(),
            Self::Stream(_) => vec![STREAM.into()],
            Self::Scenes(splits) => splits.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The index of `wanted` among [`names`](Self::names); without `wanted`, the index of the only split.
    pub(crate) fn find(&self, root: &Path, wanted: Option<&str>) -> Result<usize, DataError> {
        let available = self.names();
        let path = root.to_path_buf();
        match wanted {
            _ if matches!(self, Self::Stream(_)) => Ok(0),
            None if available.len() == 1 => Ok(0),
            None => Err(DataError::SplitNotNamed { path, available }),
            Some(wanted) => {
                let named = |wanted: &str| available.iter().position(|name| name == wanted);
                named(wanted)
                    .or_else(|| named(&canonical(wanted)))
                    .or_else(|| available.iter().position(|name| name.eq_ignore_ascii_case(wanted)))
                    .ok_or(DataError::NoSuchSplit { path, wanted: wanted.to_string(), available })
            }
        }
    }
}

/// `train-00000-of-00002.parquet` and `train.parquet` belong to `train`; `0000.parquet` belongs to the split of the
/// whole. A parquet file without a known split in its name belongs to the split that its name begins with.
fn split_of_file(path: &Path, kind: FileKind) -> String {
    if let Some(split) = split_in_name(&name_of(path)) {
        return split.into();
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let name: Vec<&str> = stem.split('-').take_while(|part| !is_digits(part)).collect();
    if name.is_empty() || kind != FileKind::Parquet { WHOLE.into() } else { name.join("-") }
}

/// The files of `kind` in `root`, in its `data` or in its `default`, by split: by their names, or by the folders
/// that are called as splits and hold them. `None` if there are none.
fn shards_below(root: &Path, kind: FileKind) -> Result<Option<Shards>, DataError> {
    for folder in [root.to_path_buf(), root.join("data"), root.join("default")] {
        // A folder that cannot be read is named when images are sought in it.
        let Ok(inner) = level(&folder) else { continue };
        let files = files_in(&folder, kind)?;
        if !files.is_empty() {
            return Ok(Some(by_split(files, kind)));
        }
        let mut splits = BTreeMap::<String, Vec<PathBuf>>::new();
        for (split, inner) in inner.folders.iter().filter_map(|inner| Some((known(&name_of(inner))?, inner)))
        {
            let files = files_in(inner, kind).unwrap_or_default();
            if !files.is_empty() {
                splits.entry(split.to_owned()).or_default().extend(files);
            }
        }
        if !splits.is_empty() {
            return Ok(Some(ranked(splits)));
        }
    }
    Ok(None)
}

/// The visible files of `kind` directly in `folder`, sorted.
fn files_in(folder: &Path, kind: FileKind) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|cause| DataError::io(folder, cause))? {
        let path = entry.map_err(|cause| DataError::io(folder, cause))?.path();
        let is_shard = FileKind::of(&path) == Some(kind) && path.is_file() && table_kind(&path).is_none();
        if is_shard && !is_ignored(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn by_split(files: Vec<PathBuf>, kind: FileKind) -> Shards {
    let mut splits = BTreeMap::<String, Vec<PathBuf>>::new();
    for file in files {
        splits.entry(split_of_file(&file, kind)).or_default().push(file);
    }
    ranked(splits)
}

fn ranked(splits: BTreeMap<String, Vec<PathBuf>>) -> Shards {
    let mut splits: Vec<_> = splits.into_iter().collect();
    splits.sort_by_key(|(name, _)| rank(name));
    splits
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

    fn detect(root: &Path) -> Result<DatasetLayout, DataError> {
        DatasetLayout::detect(root, &mut Vec::new())
    }

    fn names(files: &[&str]) -> Vec<String> {
        detect(tree(files).path()).unwrap().names()
    }

    /// The kind of data set that a tree of files is, and the notes without the path.
    fn kind(files: &[&str]) -> (&'static str, String) {
        let (dir, mut notes) = (tree(files), Vec::new());
        let kind = match DatasetLayout::detect(dir.path(), &mut notes).unwrap() {
            DatasetLayout::Folders(_) => "folders",
            DatasetLayout::Tar(_) => "tar",
            DatasetLayout::Stream(_) => "stream",
            _ => "other",
        };
        (kind, notes.join("; ").replace(&format!("{}: ", dir.path().display()), ""))
    }

    #[test]
    fn archives_left_beside_what_they_were_unpacked_to_are_not_read() {
        let left =
            |names: &str| ("folders", format!("the images are read, not the archives beside them: {names}"));
        for archive in ["ILSVRC2012_img_val.tar", "photos.tar.gz", "backup.TGZ", "train.zip", "a.7z"] {
            assert_eq!(
                kind(&["train/a/x.png", "train/b/x.png", "val/a/x.png", archive]),
                left(archive),
                "{archive}"
            );
            assert_eq!(kind(&["a/x.png", "b/x.png", archive]), left(archive), "{archive}");
            assert_eq!(kind(&["1.png", "2.png", "3.png", archive]), left(archive), "{archive}");
        }
        assert_eq!(kind(&["photos/x.png", "photos.tar.gz"]), left("photos.tar.gz"));
        assert_eq!(kind(&["val/a/x.png", "val/a/y.png", "val/val.tar"]), left("val.tar"));
        let shards = |kind, first: &str| {
            (kind, format!("the shards are read ({first}, ...), not the images beside them"))
        };
        assert_eq!(kind(&["s-0.tar", "s-1.tar", "assets/x.png"]), shards("tar", "s-0.tar"));
        assert_eq!(kind(&["s-0.tar.gz", "preview.png"]), shards("stream", "s-0.tar.gz"));
        assert_eq!(kind(&["s-0.tar", "train/notes.txt"]), ("tar", String::new()));
        let packed = detect(tree(&["photos.zip", "README.md"]).path()).unwrap_err().to_string();
        assert!(packed.contains("holds no images, but photos.zip"), "{packed}");
    }

    #[test]
    fn parquet_names_carry_the_split() {
        let files = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        let dir = tree(&[files[0], files[1], "data/valid-00000-of-00001-ab12.parquet", "README.md"]);
        let DatasetLayout::Parquet(splits) = detect(dir.path()).unwrap() else { panic!("folders") };
        assert_eq!(splits[0], ("train".into(), files.iter().map(|f| dir.path().join(f)).collect()));
        assert_eq!(splits[1].0, "validation");
        for (file, split) in
            [("0000.parquet", "all"), ("test.parquet", "test"), ("my-set-0-of-1.parquet", "my-set")]
        {
            assert_eq!(split_of_file(Path::new(file), FileKind::Parquet), split);
        }
    }

    #[test]
    fn shards_are_found_by_name_by_folder_and_by_pattern() {
        let dir = tree(&["s-train-000.tar", "s-train-001.tar", "s-val-000.tar", "photo.jpg"]);
        assert_eq!(detect(dir.path()).unwrap().names(), ["train", "validation"]);
        let pattern = dir.path().join("s-train-{000..001}.tar");
        let DatasetLayout::Tar(splits) = detect(&pattern).unwrap() else { panic!("no shards") };
        assert_eq!((splits.len(), splits[0].1.len()), (1, 2));
        let missing = detect(&dir.path().join("s-train-{000..002}.tar")).unwrap_err().to_string();
        assert!(missing.contains("s-train-002.tar: no such file"), "{missing}");
        let mixed = detect(&dir.path().join("{s-train-000.tar,photo.jpg}")).unwrap_err().to_string();
        assert!(mixed.contains("of several"), "{mixed}");
        assert_eq!(names(&["default/train/0000.parquet", "default/test/0000.parquet"]), ["train", "test"]);
        assert_eq!(names(&["data/training_0.parquet", "data/dev_0.parquet"]), ["train", "validation"]);
        assert_eq!(names(&["shard-000000.tar", "shard-000001.tar"]), ["all"]);
        assert_eq!(names(&["shard-000000.tar.gz"]), ["stream"]);
        assert!(names(&["test/a.jpg", "contest/a.jpg"]) == ["all"]);
    }

    #[test]
    fn a_file_is_known_by_its_extension() {
        let dir = tree(&["a.csv", "val.jsonl", "a.TXT", "a.jpeg", "a.tgz", "a.md", "a"]);
        let names = |file| detect(&dir.path().join(file)).map(|layout| layout.names().join(","));
        assert_eq!(
            (names("a.csv").unwrap(), names("val.jsonl").unwrap()),
            ("all".into(), "validation".into())
        );
        assert_eq!((names("a.TXT").unwrap(), names("a.jpeg").unwrap()), ("all".into(), "all".into()));
        assert_eq!(names("a.tgz").unwrap(), "stream");
        for file in ["a.md", "a"] {
            assert!(names(file).unwrap_err().to_string().contains("not a data set that vitrim reads"));
        }
    }

    #[test]
    fn a_missing_split_is_answered_with_those_there_are() {
        let dir = tree(&["train/a/x.png", "val/a/x.png"]);
        let layout = detect(dir.path()).unwrap();
        assert_eq!(layout.find(dir.path(), Some("valid")).unwrap(), 1);
        let error = layout.find(dir.path(), Some("test")).unwrap_err().to_string();
        assert!(error.contains("no split `test`; it has: train, validation"), "{error}");
        let error = layout.find(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("name one of: train, validation"), "{error}");
    }
}
