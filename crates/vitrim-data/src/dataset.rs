//! A data set: an index of encoded images or scenes and their labels, never the images themselves. A stream's
//! index grows as it is read.

mod parting;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use image::RgbImage;

use crate::bad_images::BadImages;
use crate::content::ContentHash;
use crate::decode::{Decoding, read_encoded};
use crate::error::DataError;
use crate::folder;
use crate::label_map::LabelMap;
use crate::layout::Layout;
use crate::list;
use crate::loader::{DecodeRate, DecodeTotals};
use crate::order::Order;
use crate::parquet::{ParquetIndex, class_of};
use crate::scenes::{SCENE_CLASSES, SCENES_PATH, Scene, draw_scene, label_of, object_shares, object_size};
use crate::tar::{TarIndex, TarStream, member_origin};
use crate::visit::{Payload, visit};

/// One split of a data set, or a part of one. Cloning is cheap: the index is shared.
///
/// The images of a data set have positions `0..len()`, which are those of folder and file order.
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Arc<Source>,
    /// The source's rows that belong to this data set, ascending; all of them if absent.
    kept: Option<Arc<[usize]>>,
    /// The classes of a backbone, where labels are to be those.
    relabelled: Option<Relabelled>,
    decoding: Decoding,
}

/// Labels by a [`LabelMap`].
#[derive(Clone, Debug)]
enum Relabelled {
    /// One for each row.
    Rows(Arc<[Option<u32>]>),
    /// To be mapped as they come by.
    Coming(Arc<LabelMap>),
    /// None, whatever the data set says.
    Nothing,
}

#[derive(Debug)]
struct Source {
    split: String,
    class_names: Vec<String>,
    /// One for each row.
    labels: Vec<Option<u32>>,
    store: Store,
    /// One for each row, once somebody asked.
    hashes: OnceLock<Vec<ContentHash>>,
    /// Those that a loader left out.
    bad: BadImages,
    rates: DecodeTotals,
}

/// Where the encoded images are. A row is a position in it.
#[derive(Debug)]
pub(crate) enum Store {
    Files {
        root: PathBuf,
        paths: Vec<PathBuf>,
    },
    Parquet(ParquetIndex),
    Tar(TarIndex),
    /// Read front to back; its rows are known once they have come by.
    Stream(TarStream),
    Memory(Vec<Arc<[u8]>>),
    /// Drawn when asked for, from consecutive seeds.
    Scenes {
        first_seed: u64,
    },
}

impl Dataset {
    /// Opens one split of the data set at `path`, which is one of:
    ///
    /// * a folder of class folders (with or without `train`, `val` or `validation`, `test` above them), a flat
    ///   folder of images, or one image;
    /// * Hugging Face parquet files: a folder with them in it, in its `data/` or in folders named as splits, or
    ///   one of them;
    /// * WebDataset tar shards: likewise, or a brace pattern, `shard-{0000..0009}.tar`;
    /// * a list: `.txt` (a path a line), `.csv`, `.tsv` or `.jsonl` (columns or fields `path` and `label`), with
    ///   paths relative to its folder;
    /// * a [stream](Self::is_stream) of tar shards: `-` for standard input, a named pipe, or compressed shards
    ///   (`.tar.gz`);
    /// * `scenes`, which stands for [drawn scenes](Self::scenes); a folder of that name is reached as `./scenes`.
    ///
    /// `split` may be left out where there is only one. Class indices follow torchvision's rule
    /// (sorted folder names of this very split), the parquet footer, or the labels' own numbers; labels that are
    /// words become classes in sorted order. Reads file names, footers, headers and labels, no images.
    ///
    /// # Errors
    ///
    /// If the path is missing, unreadable, of no known kind or holds no images, if it has no such split (the
    /// message lists those there are), or if a file is damaged, has no images in it or a label out of range.
    pub fn open(path: impl AsRef<Path>, split: Option<&str>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let layout = Layout::detect(path)?;
        let at = layout.find(path, split)?;
        let (split, class_names, labels, store) = match layout {
            Layout::Folders(mut splits) => {
                let (split, root) = splits.swap_remove(at);
                let found = folder::index(&root)?;
                (split, found.class_names, found.labels, Store::Files { root, paths: found.paths })
            }
            Layout::Parquet(mut splits) => {
                let (split, files) = splits.swap_remove(at);
                let mut index = ParquetIndex::open(&files)?;
                let class_names = std::mem::take(&mut index.class_names);
                let labels = std::mem::take(&mut index.labels);
                (split, class_names, labels, Store::Parquet(index))
            }
            Layout::Tar(mut splits) => {
                let (split, shards) = splits.swap_remove(at);
                let mut index = TarIndex::open(shards)?;
                let class_names = std::mem::take(&mut index.class_names);
                let labels = std::mem::take(&mut index.labels);
                (split, class_names, labels, Store::Tar(index))
            }
            Layout::List(split, path, kind) => {
                let found = list::index(&path, kind)?;
                let root = list::folder_of(&path);
                (split, found.class_names, found.labels, Store::Files { root, paths: found.paths })
            }
            Layout::Stream(inputs) => {
                let split = split.unwrap_or(crate::layout::STREAM).to_string();
                (split, Vec::new(), Vec::new(), Store::Stream(TarStream::new(inputs)))
            }
            Layout::Scenes(mut splits) => {
                let (split, seeds) = splits.swap_remove(at);
                let class_names = SCENE_CLASSES.map(String::from).to_vec();
                let first_seed = seeds.start;
                let labels = seeds.map(|seed| Some(label_of(seed))).collect();
                (split, class_names, labels, Store::Scenes { first_seed })
            }
        };
        Ok(Self::whole(split, class_names, labels, store))
    }

    /// One split of the [scenes](crate::draw_scene), which are drawn when asked for: `train` with
    /// 2,000,000 (seeds from 0), `validation` and `test` with 100,000 each (seeds from 10,000,000 and
    /// from 20,000,000). A scene's content hash is that of its name, which tells its seed.
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
            if let Some(label) = label.filter(|label| classes > 0 && *label as usize >= classes) {
                return Err(DataError::BadLabel {
                    origin: memory_name(row),
                    label: label.into(),
                    expected: format!("0 to {}", classes - 1),
                });
            }
            encoded.push(bytes.into());
            labels.push(label);
        }
        Ok(Self::whole(crate::layout::WHOLE.to_string(), class_names, labels, Store::Memory(encoded)))
    }

    /// The splits of the data set at `path`: `train`, `validation`, `test`, then others; `all` if it
    /// has none of its own.
    ///
    /// # Errors
    ///
    /// [`DataError::NotFound`] or [`DataError::Unreadable`] if the path cannot be read.
    pub fn splits(path: impl AsRef<Path>) -> Result<Vec<String>, DataError> {
        Ok(Layout::detect(path.as_ref())?.names())
    }

    /// Whether what lies at `path` holds images or lists them, as parquet, shards, streams and lists do, and is no
    /// image file or folder of such.
    ///
    /// # Errors
    ///
    /// As [`splits`](Self::splits), but a file of an unknown kind is taken for an image.
    pub fn packs(path: impl AsRef<Path>) -> Result<bool, DataError> {
        match Layout::detect(path.as_ref()) {
            Ok(layout) => Ok(!matches!(layout, Layout::Folders(_) | Layout::Scenes(_))),
            Err(DataError::UnknownKind { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether what lies at `path` is read front to back, so that it has one split, which answers to any name: see
    /// [`is_stream`](Self::is_stream).
    ///
    /// # Errors
    ///
    /// As [`splits`](Self::splits).
    pub fn streams(path: impl AsRef<Path>) -> Result<bool, DataError> {
        Ok(matches!(Layout::detect(path.as_ref())?, Layout::Stream(_)))
    }

    fn whole(split: String, class_names: Vec<String>, labels: Vec<Option<u32>>, store: Store) -> Self {
        let (hashes, bad, rates) = (OnceLock::new(), BadImages::default(), DecodeTotals::default());
        let source = Arc::new(Source { split, class_names, labels, store, hashes, bad, rates });
        Self { source, kept: None, relabelled: None, decoding: Decoding::default() }
    }

    /// The same images with their source's labels, those of the rows in `kept`.
    fn keeping(&self, kept: Arc<[usize]>) -> Self {
        Self { kept: Some(kept), ..self.clone() }
    }

    /// The same images, decoded by `decoding`.
    pub fn decoded_by(&self, decoding: Decoding) -> Self {
        Self { decoding, ..self.clone() }
    }

    /// The same images with the labels that `map` makes of theirs: those of a backbone. By a class's name where
    /// the data set has names and the map has this one, else by its index. The new data set has no class names.
    ///
    /// # Errors
    ///
    /// [`DataError::NotInLabelMap`] if an image's class is not in the map; a stream says so once it comes by.
    pub fn relabelled(&self, map: &LabelMap) -> Result<Self, DataError> {
        if self.is_stream() {
            let relabelled = Some(Relabelled::Coming(Arc::new(map.clone())));
            return Ok(Self { relabelled, ..self.clone() });
        }
        let names = &self.source.class_names;
        let classes =
            names.len().max(self.source.labels.iter().flatten().max().map_or(0, |&max| max as usize + 1));
        let class = |label: usize| {
            let named = names.get(label).and_then(|name| map.of_name(name));
            named.or_else(|| map.of_index(label as u32))
        };
        let mapped: Vec<_> = (0..classes).map(class).collect();
        let mut labels = vec![None; self.source.labels.len()];
        for row in (0..self.len()).filter_map(|index| self.row(index)) {
            let Some(label) = self.source.labels[row] else { continue };
            labels[row] = mapped[label as usize].ok_or_else(|| DataError::NotInLabelMap {
                origin: self.origin_of_row(row),
                class: names.get(label as usize).cloned().unwrap_or_else(|| label.to_string()),
            })?;
        }
        Ok(Self { relabelled: Some(Relabelled::Rows(labels.into())), ..self.clone() })
    }

    /// The same images without their labels.
    pub fn unlabelled(&self) -> Self {
        Self { relabelled: Some(Relabelled::Nothing), ..self.clone() }
    }

    /// Whether this is a pipe or a compressed shard, which is read front to back. It cannot be shuffled or parted,
    /// a pipe cannot be read twice, and images are known only once they have come by: until then, `len` and what
    /// is asked by position leave them out. `LoaderOptions::limit` takes the first ones.
    pub fn is_stream(&self) -> bool {
        matches!(self.source.store, Store::Stream(_))
    }

    /// The images that loaders left out so far, of this data set and of all its parts, each counted once.
    pub fn bad_images(&self) -> BadImages {
        self.source.bad.clone()
    }

    /// How fast loaders have decoded this data set and all its parts, in the passes that have ended.
    pub fn decode_rate(&self) -> DecodeRate {
        self.source.rates.sum()
    }

    pub(crate) fn add_rate(&self, pass: &DecodeRate) {
        self.source.rates.add(pass);
    }

    /// How many images there are; of a stream, how many have come by.
    pub fn len(&self) -> usize {
        match &self.source.store {
            Store::Stream(stream) => stream.rows().len(),
            _ => self.kept.as_ref().map_or(self.source.labels.len(), |kept| kept.len()),
        }
    }

    /// Whether there is no image, as can happen to a part of a small data set. Of a stream nobody knows.
    pub fn is_empty(&self) -> bool {
        !self.is_stream() && self.len() == 0
    }

    /// The split's name, with `val` and `valid` spelt `validation`.
    pub fn split(&self) -> &str {
        &self.source.split
    }

    /// The name of each class, by index; empty if the data set does not say.
    pub fn class_names(&self) -> &[String] {
        if self.relabelled.is_some() { &[] } else { &self.source.class_names }
    }

    /// Whether at least one image has a label.
    pub fn is_labelled(&self) -> bool {
        (0..self.len()).any(|index| self.label(index).is_some())
    }

    /// The label of the image at `index`; `None` if it has none or there is no such image.
    pub fn label(&self, index: usize) -> Option<u32> {
        let row = self.row(index)?;
        match (&self.source.store, &self.relabelled) {
            (_, Some(Relabelled::Nothing)) => None,
            (Store::Stream(stream), _) => stream.rows().get(row)?.label,
            (_, Some(Relabelled::Rows(labels))) => *labels.get(row)?,
            _ => *self.source.labels.get(row)?,
        }
    }

    /// A short name of the image at `index`: its path below the split, its path in a list, `file.parquet#row`, or
    /// `shard.tar/member`. Empty if there is no such image.
    pub fn name(&self, index: usize) -> String {
        let Some(row) = self.row(index) else { return String::new() };
        match &self.source.store {
            Store::Files { paths, .. } => paths[row].to_string_lossy().into_owned(),
            Store::Parquet(parquet) => parquet.name_of_row(row),
            Store::Tar(tar) => tar.name_of_row(row),
            Store::Stream(stream) => stream.rows().get(row).map(|row| row.name.clone()).unwrap_or_default(),
            Store::Memory(_) => memory_name(row),
            Store::Scenes { first_seed } => scene_name(first_seed + row as u64),
        }
    }

    /// The scene at `index`, drawn; `None` if this is no data set of scenes or there is no such image.
    pub fn scene(&self, index: usize) -> Option<Scene> {
        match self.source.store {
            Store::Scenes { first_seed } => Some(draw_scene(first_seed + self.row(index)? as u64)),
            _ => None,
        }
    }

    /// The image at `index`, decoded at its full size. Meant for single images: a [`Loader`](crate::Loader)
    /// reads many.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`], or what reading and decoding can fail with.
    pub fn image(&self, index: usize) -> Result<RgbImage, DataError> {
        self.require_random_access("read at one place")?;
        let len = self.len();
        if index >= len {
            return Err(DataError::IndexOutOfRange { index, len });
        }
        let mut found = None;
        visit(self, Order::Sequential, index..index + 1, &mut |_, payload| {
            found = Some(self.decoded(index, payload));
            true
        })?;
        found.unwrap_or(Err(DataError::IndexOutOfRange { index, len }))
    }

    /// Shows `sink` every image in turn with its name, as its encoded bytes or as why they cannot be had, until it
    /// wants no more. Scenes, which have no such bytes, are shown by their names.
    ///
    /// # Errors
    ///
    /// If the data set, and not one image, cannot be read.
    pub fn for_each_encoded(
        &self,
        sink: &mut dyn FnMut(String, Result<Arc<[u8]>, DataError>) -> bool,
    ) -> Result<(), DataError> {
        visit(self, Order::Sequential, 0..self.end(), &mut |index, payload| {
            sink(self.name(index), self.bytes(index, payload))
        })
    }

    /// The first `n` images of this data set, all of them if there are fewer. Of a stream, those of the first that
    /// have come by.
    pub fn first(&self, n: usize) -> Self {
        self.keeping((0..n.min(self.len())).filter_map(|index| self.row(index)).collect())
    }

    /// Whether it is known where the object of each image lies: so for scenes.
    pub fn knows_objects(&self) -> bool {
        matches!(self.source.store, Store::Scenes { .. })
    }

    /// Share of each square patch of the image at `index` that its object covers, `[N0]`, row-major; `None`
    /// where that is not known or there is no such image.
    pub fn object_shares(&self, index: usize, patch_size: usize) -> Option<Vec<f32>> {
        Some(object_shares(self.seed(index)?, patch_size))
    }

    /// Diameter of the object in the image at `index`, in pixels; `None` where that is not known or there is no
    /// such image.
    pub fn object_size(&self, index: usize) -> Option<f32> {
        Some(object_size(self.seed(index)?))
    }

    /// The seed of the scene at `index`.
    fn seed(&self, index: usize) -> Option<u64> {
        match &self.source.store {
            Store::Scenes { first_seed } => Some(first_seed + self.row(index)? as u64),
            _ => None,
        }
    }

    /// The image behind `payload`, which belongs to the image at `index`.
    pub(crate) fn decoded(&self, index: usize, payload: Payload) -> Result<RgbImage, DataError> {
        match payload {
            Payload::Scene(seed) => Ok(draw_scene(seed).image),
            payload => self.decoding.decode(&self.bytes(index, payload)?, &self.origin(index)),
        }
    }

    /// The encoded bytes behind `payload`, which belongs to the image at `index`; a scene, which has
    /// none, is known by its name.
    fn bytes(&self, index: usize, payload: Payload) -> Result<Arc<[u8]>, DataError> {
        match payload {
            Payload::Encoded(bytes) => Ok(bytes),
            Payload::File(path) => Ok(read_encoded(&path)?.into()),
            Payload::Member(row) => match &self.source.store {
                Store::Tar(tar) => Ok(tar.read_row(row)?.into()),
                _ => Err(DataError::bad_image(self.origin(index), "no member of a tar shard")),
            },
            Payload::Refused(error) => Err(error),
            Payload::Scene(seed) => Ok(scene_name(seed).into_bytes().into()),
            Payload::Null => Err(DataError::bad_image(self.origin(index), "the row has no image")),
        }
    }

    /// Where a person finds the image at `index`: a path, a parquet file and row, or a tar shard and member.
    pub(crate) fn origin(&self, index: usize) -> String {
        self.row(index).map(|row| self.origin_of_row(row)).unwrap_or_default()
    }

    fn origin_of_row(&self, row: usize) -> String {
        match &self.source.store {
            Store::Files { root, paths } => root.join(&paths[row]).display().to_string(),
            Store::Parquet(parquet) => parquet.origin_of_row(row),
            Store::Tar(tar) => tar.origin_of_row(row),
            Store::Stream(stream) => {
                let name = stream.rows().get(row).map(|row| row.name.clone()).unwrap_or_default();
                member_origin(&stream.origin(), &name)
            }
            Store::Memory(_) => memory_name(row),
            Store::Scenes { first_seed } => scene_name(first_seed + row as u64),
        }
    }

    /// Writes down that the image at `index` was left out because of `error`.
    pub(crate) fn left_out(&self, index: usize, error: &DataError) {
        if let Some(row) = self.row(index) {
            self.source.bad.add_once(row, error);
        }
    }

    /// The class of an image that comes by in a stream as member `name`, labelled `stated`.
    pub(crate) fn streamed_class(&self, name: &str, stated: Option<&str>) -> Result<Option<u32>, DataError> {
        let Some(stated) = stated.map(str::trim).filter(|stated| !stated.is_empty()) else { return Ok(None) };
        let Store::Stream(stream) = &self.source.store else { return Ok(None) };
        if matches!(self.relabelled, Some(Relabelled::Nothing)) {
            return Ok(None);
        }
        let origin = || member_origin(&stream.origin(), name);
        let index = match stated.parse::<i64>() {
            Ok(index) => class_of(Some(index), 0).map_err(|(label, expected)| DataError::BadLabel {
                origin: origin(),
                label,
                expected,
            })?,
            Err(_) if self.relabelled.is_none() => {
                let wanted = "labelled by words without knowing the backbone's classes";
                return Err(DataError::OnePass { origin: origin(), wanted });
            }
            Err(_) => None,
        };
        match &self.relabelled {
            Some(Relabelled::Coming(map)) => map
                .of_name(stated)
                .or_else(|| if let Some(index) = index { map.of_index(index) } else { None })
                // What is no number and in no map is an error; -1 is no label.
                .or_else(|| (index.is_none() && stated.parse::<i64>().is_ok()).then_some(None))
                .ok_or_else(|| DataError::NotInLabelMap { origin: origin(), class: stated.to_string() }),
            _ => Ok(index),
        }
    }

    /// One past the last place that a pass may come to.
    pub(crate) fn end(&self) -> usize {
        if self.is_stream() { usize::MAX } else { self.len() }
    }

    fn require_random_access(&self, wanted: &'static str) -> Result<(), DataError> {
        match &self.source.store {
            Store::Stream(stream) => Err(DataError::OnePass { origin: stream.origin(), wanted }),
            _ => Ok(()),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.source.store
    }

    /// The source's row of the image at `index`, if there is such an image.
    pub(crate) fn row(&self, index: usize) -> Option<usize> {
        match &self.kept {
            Some(kept) => kept.get(index).copied(),
            None if self.is_stream() => Some(index),
            None => (index < self.source.labels.len()).then_some(index),
        }
    }

    /// The first position whose row is `row` or later.
    pub(crate) fn position_of(&self, row: usize) -> usize {
        match &self.kept {
            Some(kept) => kept.partition_point(|&kept| kept < row),
            None => row.min(self.source.labels.len()),
        }
    }
}

fn memory_name(row: usize) -> String {
    format!("memory#{row}")
}

fn scene_name(seed: u64) -> String {
    format!("scene {seed}")
}
