//! A data set: an index of encoded images or scenes and their labels, never the images themselves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use image::RgbImage;

use crate::content::{ContentHash, ContentSet, Part, Shares};
use crate::decode::decode_image;
use crate::error::DataError;
use crate::folder;
use crate::layout::Layout;
use crate::order::Order;
use crate::parquet::ParquetIndex;
use crate::scenes::{SCENE_CLASSES, SCENES_PATH, Scene, draw_scene, label_of, object_shares, object_size};
use crate::visit::{Payload, visit};

/// One split of a data set, or a part of one. Cloning is cheap: the index is shared.
///
/// The images of a data set have positions `0..len()`, which are those of folder and file order.
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Arc<Source>,
    /// The source's rows that belong to this data set, ascending; all of them if absent.
    kept: Option<Arc<[usize]>>,
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
}

/// Where the encoded images are. A row is a position in it.
#[derive(Debug)]
pub(crate) enum Store {
    Files {
        root: PathBuf,
        paths: Vec<PathBuf>,
    },
    Parquet(ParquetIndex),
    Memory(Vec<Arc<[u8]>>),
    /// Drawn when asked for, from consecutive seeds.
    Scenes {
        first_seed: u64,
    },
}

impl Dataset {
    /// Opens one split of the data set at `path`: a folder of class folders (with or without `train`,
    /// `val` or `validation`, `test` above them), a flat folder of images, a folder with Hugging
    /// Face parquet files in it or in its `data/`, or one parquet file. The path `scenes` stands for
    /// [drawn scenes](Self::scenes); a folder of that name is reached as `./scenes`.
    ///
    /// `split` may be left out where there is only one. Class indices follow torchvision's rule
    /// (sorted folder names of this very split) or the parquet footer. Reads file names, footers and
    /// labels, no images.
    ///
    /// # Errors
    ///
    /// If the path is missing, unreadable or holds no images, if it has no such split (the message
    /// lists those there are), or if a parquet file is damaged, has no image column or a label out of
    /// range.
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
            Layout::Scenes(mut splits) => {
                let (split, seeds) = splits.swap_remove(at);
                let class_names = SCENE_CLASSES.map(String::from).to_vec();
                let first_seed = seeds.start;
                let labels = seeds.map(|seed| Some(label_of(seed))).collect();
                (split, class_names, labels, Store::Scenes { first_seed })
            }
        };
        Ok(Self::whole(Source { split, class_names, labels, store, hashes: OnceLock::new() }))
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
        let (split, store) = (crate::layout::WHOLE.to_string(), Store::Memory(encoded));
        Ok(Self::whole(Source { split, class_names, labels, store, hashes: OnceLock::new() }))
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

    fn whole(source: Source) -> Self {
        Self { source: Arc::new(source), kept: None }
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.kept.as_ref().map_or(self.source.labels.len(), |kept| kept.len())
    }

    /// Whether there is no image, as can happen to a part of a small data set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The split's name, with `val` and `valid` spelt `validation`.
    pub fn split(&self) -> &str {
        &self.source.split
    }

    /// The name of each class, by index; empty if the data set does not say.
    pub fn class_names(&self) -> &[String] {
        &self.source.class_names
    }

    /// Whether at least one image has a label.
    pub fn is_labelled(&self) -> bool {
        (0..self.len()).any(|index| self.label(index).is_some())
    }

    /// The label of the image at `index`; `None` if it has none or there is no such image.
    pub fn label(&self, index: usize) -> Option<u32> {
        self.source.labels.get(self.row(index)?).copied().flatten()
    }

    /// A short name of the image at `index`: its path below the split, or `file.parquet#row`.
    /// Empty if there is no such image.
    pub fn name(&self, index: usize) -> String {
        let Some(row) = self.row(index) else { return String::new() };
        match &self.source.store {
            Store::Files { paths, .. } => paths[row].to_string_lossy().into_owned(),
            Store::Parquet(parquet) => parquet.name_of_row(row),
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

    /// The first `n` images of this data set, all of them if there are fewer.
    pub fn first(&self, n: usize) -> Self {
        let kept = (0..n.min(self.len())).filter_map(|index| self.row(index)).collect();
        Self { source: Arc::clone(&self.source), kept: Some(kept) }
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

    /// The part of this data set that a hash of each image's encoded bytes assigns to `part`, so that
    /// copies of one file never lie in two parts.
    ///
    /// Reads every image's bytes once for all parts; `progress` is told (images done, all images).
    ///
    /// # Errors
    ///
    /// [`DataError::Shares`], or a read error.
    pub fn by_hash(
        &self,
        part: Part,
        shares: &Shares,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, DataError> {
        shares.validate()?;
        self.keep(progress, |hash| shares.part_of(hash) == part)
    }

    /// The hashes of the encoded bytes of this data set's images.
    ///
    /// Reads every image's bytes, once for the data set and all its parts; `progress` is told (images
    /// done, all images).
    ///
    /// # Errors
    ///
    /// A read error.
    pub fn content_hashes(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<ContentSet, DataError> {
        let hashes = self.source_hashes(progress)?;
        Ok((0..self.len()).filter_map(|index| Some(hashes[self.row(index)?])).collect())
    }

    /// This data set without the images whose encoded bytes are in `excluded`, and how many those
    /// were.
    ///
    /// # Errors
    ///
    /// A read error.
    pub fn without(
        &self,
        excluded: &ContentSet,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Self, usize), DataError> {
        let rest = self.keep(progress, |hash| !excluded.contains(hash))?;
        let removed = self.len() - rest.len();
        Ok((rest, removed))
    }

    fn keep(
        &self,
        progress: &mut dyn FnMut(usize, usize),
        wanted: impl Fn(&ContentHash) -> bool,
    ) -> Result<Self, DataError> {
        let hashes = self.source_hashes(progress)?;
        let rows = (0..self.len()).filter_map(|index| self.row(index));
        let kept = rows.filter(|&row| wanted(&hashes[row])).collect();
        Ok(Self { source: Arc::clone(&self.source), kept: Some(kept) })
    }

    /// The hash of every row of the source, kept for the next caller.
    fn source_hashes(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<&[ContentHash], DataError> {
        if let Some(hashes) = self.source.hashes.get() {
            return Ok(hashes);
        }
        let whole = Self { source: Arc::clone(&self.source), kept: None };
        let mut hashes = Vec::with_capacity(whole.len());
        let mut failed = None;
        visit(&whole, Order::Sequential, 0..whole.len(), &mut |index, payload| {
            let encoded = match payload {
                Payload::Null => Ok(Arc::from([])),
                payload => whole.bytes(index, payload),
            };
            match encoded {
                Ok(encoded) => hashes.push(ContentHash::of(&encoded)),
                Err(error) => failed = Some(error),
            }
            progress(hashes.len(), whole.len());
            failed.is_none()
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(self.source.hashes.get_or_init(|| hashes)),
        }
    }

    /// The image behind `payload`, which belongs to the image at `index`.
    pub(crate) fn decoded(&self, index: usize, payload: Payload) -> Result<RgbImage, DataError> {
        match payload {
            Payload::Scene(seed) => Ok(draw_scene(seed).image),
            payload => decode_image(&self.bytes(index, payload)?, &self.origin(index)),
        }
    }

    /// The encoded bytes behind `payload`, which belongs to the image at `index`; a scene, which has
    /// none, is known by its name.
    fn bytes(&self, index: usize, payload: Payload) -> Result<Arc<[u8]>, DataError> {
        match payload {
            Payload::Encoded(bytes) => Ok(bytes),
            Payload::File(path) => match std::fs::read(&path) {
                Ok(bytes) => Ok(bytes.into()),
                Err(cause) => Err(DataError::io(&path, cause)),
            },
            Payload::Scene(seed) => Ok(scene_name(seed).into_bytes().into()),
            Payload::Null => Err(DataError::bad_image(self.origin(index), "the row has no image")),
        }
    }

    /// Where a person finds the image at `index`: a path, or a parquet file and row.
    pub(crate) fn origin(&self, index: usize) -> String {
        let Some(row) = self.row(index) else { return String::new() };
        match &self.source.store {
            Store::Files { root, paths } => root.join(&paths[row]).display().to_string(),
            Store::Parquet(parquet) => parquet.origin_of_row(row),
            Store::Memory(_) => memory_name(row),
            Store::Scenes { first_seed } => scene_name(first_seed + row as u64),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.source.store
    }

    /// The source's row of the image at `index`, if there is such an image.
    pub(crate) fn row(&self, index: usize) -> Option<usize> {
        match &self.kept {
            Some(kept) => kept.get(index).copied(),
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
