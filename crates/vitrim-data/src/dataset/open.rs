//! Opens a data set, or finds out what kind of data set a path is.

use std::path::Path;

use super::Dataset;
use crate::error::DataError;
use crate::labels::class_of;
use crate::scenes::{SCENE_CLASSES, SCENES_PATH, label_of};
use crate::sources::{
    DatasetLayout, ParquetIndex, STREAM, Store, TarIndex, TarStream, WHOLE, folder_of, index_folder,
    index_list, index_table, memory_name, with_metadata,
};

impl Dataset {
    /// Opens one split of the data set at `path`, which is one of:
    ///
    /// * a folder of class folders (with or without split folders above them: `train`, `Testing`, `val`, `dev`), a flat
    ///   folder of images, or one image;
    /// * Hugging Face parquet files: a folder with them in it, in its `data/` or in folders named as splits, or
    ///   one of them;
    /// * WebDataset tar shards: in the same places, or a brace pattern, `shard-{0000..0009}.tar`;
    /// * a list: `.txt` (one path per line), `.csv`, `.tsv` or `.jsonl` (columns or fields `path` and `label`), with
    ///   paths relative to its folder; also Hugging Face's `metadata.csv`, `.jsonl` or `.parquet`, which in a folder of
    ///   images gives these their labels;
    /// * a [stream](Self::is_stream) of tar shards: `-` for standard input, a named pipe, or compressed shards
    ///   (`.tar.gz`);
    /// * `scenes`, the [generated images](Self::scenes); a folder of that name is reached as `./scenes`.
    ///
    /// `split` may be left out if there is only one. Class indices follow torchvision's rule
    /// (sorted folder names of this split), the parquet footer, or the labels' own numbers; labels that are
    /// words become classes in sorted order. Reads file names, footers, headers and labels, no images.
    ///
    /// # Errors
    ///
    /// If the path is missing, unreadable, of an unknown kind or without images, if it has no such split (the
    /// message lists the existing ones), or if a file is damaged, has no images in it or a label out of range.
    pub fn open(path: impl AsRef<Path>, split: Option<&str>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let mut notes = Vec::new();
        let layout = DatasetLayout::detect(path, &mut notes)?;
        let at = layout.find(path, split)?;
        let mut label_notes = Vec::new();
        let (split, class_names, labels, store) = match layout {
            DatasetLayout::Folders(mut splits) => {
                let (split, root) = splits.swap_remove(at);
                let (found, note) = with_metadata(index_folder(&root)?, &root)?;
                label_notes.extend(note);
                notes.extend(found.notes);
                let store = Store::Files { root: found.root, paths: found.paths };
                (split, found.class_names, found.labels, store)
            }
            DatasetLayout::Parquet(mut splits) => {
                let (split, files) = splits.swap_remove(at);
                let mut index = ParquetIndex::open(&files)?;
                let class_names = std::mem::take(&mut index.class_names);
                let labels = std::mem::take(&mut index.labels);
                (split, class_names, labels, Store::Parquet(index))
            }
            DatasetLayout::Tar(mut splits) => {
                let (split, shards) = splits.swap_remove(at);
                let mut index = TarIndex::open(shards)?;
                let class_names = std::mem::take(&mut index.class_names);
                let labels = std::mem::take(&mut index.labels);
                (split, class_names, labels, Store::Tar(index))
            }
            DatasetLayout::List(split, path, kind) => {
                let found = index_list(&path, kind)?;
                let root = folder_of(&path);
                (split, found.class_names, found.labels, Store::Files { root, paths: found.paths })
            }
            DatasetLayout::Table(mut splits, path, kind) => {
                let (split, folder) = splits.swap_remove(at);
                let found = index_table(&path, kind, folder.as_deref())?;
                let root = folder_of(&path);
                (split, found.class_names, found.labels, Store::Files { root, paths: found.paths })
            }
            DatasetLayout::Stream(inputs) => {
                let split = split.unwrap_or(STREAM).to_string();
                (split, Vec::new(), Vec::new(), Store::Stream(TarStream::new(inputs)))
            }
            DatasetLayout::Scenes(mut splits) => {
                let (split, seeds) = splits.swap_remove(at);
                let class_names = SCENE_CLASSES.map(String::from).to_vec();
                let first_seed = seeds.start;
                let labels = seeds.map(|seed| Some(label_of(seed))).collect();
                (split, class_names, labels, Store::Scenes { first_seed })
            }
        };
        let path = path.display().to_string();
        let whole = Self::whole(path, split, class_names, labels, store, notes);
        Ok(Self { label_notes: label_notes.into(), ..whole })
    }

    /// One split of the [scenes](crate::draw_scene), which are generated on demand: `train` with 2,000,000 (seeds
    /// from 0), `validation` and `test` with 100,000 each (seeds from 10,000,000 and from 20,000,000). The content
    /// hash of a scene is that of its name, which contains its seed.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSuchSplit`].
    pub fn scenes(split: &str) -> Result<Self, DataError> {
        Self::open(SCENES_PATH, Some(split))
    }

    /// A data set of encoded images that are already in memory, with their labels.
    ///
    /// # Errors
    ///
    /// [`DataError::BadLabel`] if `class_names` is not empty and a label lies outside it.
    pub fn from_memory(
        images: Vec<(Vec<u8>, Option<u32>)>,
        class_names: Vec<String>,
    ) -> Result<Self, DataError> {
        let classes = class_names.len();
        let (mut encoded, mut labels) = (Vec::new(), Vec::new());
        for (row, (bytes, label)) in images.into_iter().enumerate() {
            let class = class_of(label.map(i64::from), classes).map_err(|(label, expected)| {
                DataError::BadLabel { origin: memory_name(row), label, expected }
            })?;
            encoded.push(bytes.into());
            labels.push(class);
        }
        let (path, store) = ("memory".to_string(), Store::Memory(encoded));
        Ok(Self::whole(path, WHOLE.to_string(), class_names, labels, store, Vec::new()))
    }

    /// The splits of the data set at `path`: `train`, `validation`, `test`, then others; `all` if it
    /// has none of its own.
    ///
    /// # Errors
    ///
    /// [`DataError::NotFound`] or [`DataError::Unreadable`] if the path cannot be read.
    pub fn splits(path: impl AsRef<Path>) -> Result<Vec<String>, DataError> {
        Ok(DatasetLayout::detect(path.as_ref(), &mut Vec::new())?.names())
    }

    /// Whether the file or folder at `path` holds or lists images (parquet, shards, streams and lists), and is not an
    /// image file or a folder of image files.
    ///
    /// # Errors
    ///
    /// As [`splits`](Self::splits), but a file of an unknown kind counts as an image.
    pub fn packs(path: impl AsRef<Path>) -> Result<bool, DataError> {
        match DatasetLayout::detect(path.as_ref(), &mut Vec::new()) {
            Ok(layout) => Ok(!matches!(layout, DatasetLayout::Folders(_) | DatasetLayout::Scenes(_))),
            Err(DataError::UnknownKind { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the data set at `path` is a [stream](Self::is_stream), whose one split has every name.
    ///
    /// # Errors
    ///
    /// As [`splits`](Self::splits).
    pub fn streams(path: impl AsRef<Path>) -> Result<bool, DataError> {
        Ok(matches!(DatasetLayout::detect(path.as_ref(), &mut Vec::new())?, DatasetLayout::Stream(_)))
    }
}
