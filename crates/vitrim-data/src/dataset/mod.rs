//! A data set: an index of encoded images or scenes and their labels, never the images themselves. A stream's
//! index grows as it is read.

mod content;
mod images;
mod open;
mod parting;
mod relabel;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use content::Fingerprint;
pub use content::{ContentHash, ContentSet, Excluded, Shares, Subset};
pub(crate) use content::{Mark, TAIL, mark, mark_of};

use crate::decoding::{BadImages, DecodeRate, DecodeTotals, Decoding};
use crate::error::DataError;
use crate::labels::{LabelMap, StreamClasses};
use crate::sources::Store;
use crate::walk::Rows;

/// One split of a data set, or a part of one. Cloning is cheap: the index is shared.
///
/// The images of a data set have positions `0..len()`, which are those of folder and file order.
#[derive(Clone, Debug)]
pub struct Dataset {
    index: Arc<Index>,
    /// The index's rows that belong to this data set.
    rows: Rows,
    relabelling: Relabelling,
    /// What was guessed of the labels.
    label_notes: Arc<[String]>,
    decoding: Decoding,
}

/// The labels of a data set.
#[derive(Clone, Debug)]
enum Relabelling {
    /// The data set's own labels.
    Own,
    /// Labels from a [`LabelMap`] or of a backbone, one for each row.
    Rows(Arc<[Option<u32>]>),
    /// Labels from a [`LabelMap`], looked up while a stream is read.
    Stream(Arc<LabelMap>),
    /// Labels of a backbone, looked up while a stream is read.
    StreamOfBackbone(Arc<StreamClasses>),
    /// No labels.
    Unlabelled,
}

/// What was read when the data set was opened, shared by all its parts.
#[derive(Debug)]
struct Index {
    /// The path that was opened, for messages.
    path: String,
    split: String,
    class_names: Vec<String>,
    /// One label for each row; empty for a stream.
    labels: Vec<Option<u32>>,
    store: Store,
    /// What was guessed or left out when the files were found.
    layout_notes: Vec<String>,
    /// One for each row, computed on first use.
    fingerprints: OnceLock<Vec<Fingerprint>>,
    /// Images that loaders left out.
    bad: BadImages,
    rates: DecodeTotals,
}

impl Dataset {
    fn whole(
        path: String,
        split: String,
        class_names: Vec<String>,
        labels: Vec<Option<u32>>,
        store: Store,
        layout_notes: Vec<String>,
    ) -> Self {
        let rows = Rows::all((!matches!(store, Store::Stream(_))).then_some(labels.len()));
        let (fingerprints, bad, rates) = (OnceLock::new(), BadImages::default(), DecodeTotals::default());
        let index = Index { path, split, class_names, labels, store, layout_notes, fingerprints, bad, rates };
        Self {
            index: Arc::new(index),
            rows,
            relabelling: Relabelling::Own,
            label_notes: Arc::default(),
            decoding: Decoding::default(),
        }
    }

    /// Whether this is a stream: a pipe or a compressed shard. A stream cannot be shuffled or split, and a pipe
    /// cannot be read twice. Its images are known only once they have been read: until then, `len` and methods that
    /// take a position do not include them. `LoaderOptions::limit` takes the first ones.
    pub fn is_stream(&self) -> bool {
        matches!(self.index.store, Store::Stream(_))
    }

    /// The images that loaders have left out so far, of this data set and of all its parts, each counted once.
    pub fn bad_images(&self) -> BadImages {
        self.index.bad.clone()
    }

    /// Decoding rate of this data set and all its parts, over the passes that have ended.
    pub fn decode_rate(&self) -> DecodeRate {
        self.index.rates.sum()
    }

    pub(crate) fn add_rate(&self, pass: &DecodeRate) {
        self.index.rates.add(pass);
    }

    /// Number of images; for a stream, the number of images read so far.
    pub fn len(&self) -> usize {
        match &self.index.store {
            Store::Stream(stream) => stream.rows().len(),
            _ => self.rows.len(),
        }
    }

    /// Whether there is no image, as is possible for a part of a small data set. Always false for a stream.
    pub fn is_empty(&self) -> bool {
        !self.is_stream() && self.len() == 0
    }

    /// The split's name, with `val` and `valid` spelt `validation`.
    pub fn split(&self) -> &str {
        &self.index.split
    }

    /// What was guessed or left out when the data set was opened, a line each: which of two layouts was read, folders
    /// beside the split folders, classes without images.
    pub fn layout_notes(&self) -> &[String] {
        &self.index.layout_notes
    }

    /// The name of each class, by index; empty if the data set does not say.
    pub fn class_names(&self) -> &[String] {
        if matches!(self.relabelling, Relabelling::Own) { &self.index.class_names } else { &[] }
    }

    /// What was guessed to give the images their labels, a sentence each; empty if nothing was. For a stream, as far as
    /// it has been read.
    pub fn label_notes(&self) -> Vec<String> {
        let of_stream = match &self.relabelling {
            Relabelling::Unlabelled => return Vec::new(),
            Relabelling::StreamOfBackbone(classes) => classes.note(),
            _ => None,
        };
        self.label_notes.iter().cloned().chain(of_stream).collect()
    }

    /// The names of the classes that no image of the whole split has, as the data set's own labels say.
    pub fn classes_without_images(&self) -> Vec<&str> {
        let used: HashSet<u32> = self.index.labels.iter().flatten().copied().collect();
        let names = (0..).zip(self.class_names());
        names.filter(|(class, _)| !used.contains(class)).map(|(_, name)| name.as_str()).collect()
    }

    /// Whether at least one image has a label.
    pub fn is_labelled(&self) -> bool {
        (0..self.len()).any(|index| self.label(index).is_some())
    }

    /// The label of the image at `index`; `None` if it has none or there is no such image.
    pub fn label(&self, index: usize) -> Option<u32> {
        let row = self.row(index)?;
        match (&self.index.store, &self.relabelling) {
            (_, Relabelling::Unlabelled) => None,
            (Store::Stream(stream), _) => stream.rows().get(row)?.label,
            (_, Relabelling::Rows(labels)) => *labels.get(row)?,
            _ => *self.index.labels.get(row)?,
        }
    }

    /// The first `n` images of this data set, or all of them if there are fewer. For a stream, those of the first
    /// that have been read.
    pub fn first(&self, n: usize) -> Self {
        self.keeping((0..n.min(self.len())).filter_map(|index| self.row(index)).collect())
    }

    /// The same images, decoded by `decoding`.
    pub fn decoded_by(&self, decoding: Decoding) -> Self {
        Self { decoding, ..self.clone() }
    }

    /// Records that the image at `index` was left out because of `error`.
    pub(crate) fn left_out(&self, index: usize, error: &DataError) {
        if let Some(row) = self.row(index) {
            self.index.bad.add_once(row, error);
        }
    }

    /// The images of the rows in `kept`.
    fn keeping(&self, kept: Arc<[usize]>) -> Self {
        Self { rows: self.rows.keeping(kept), ..self.clone() }
    }

    fn require_random_access(&self, wanted: &'static str) -> Result<(), DataError> {
        match &self.index.store {
            Store::Stream(stream) => Err(DataError::OnePass { origin: stream.origin(), wanted }),
            _ => Ok(()),
        }
    }

    /// The index's row of the image at `position`, if there is such an image.
    fn row(&self, position: usize) -> Option<usize> {
        self.rows.row(position)
    }
}
