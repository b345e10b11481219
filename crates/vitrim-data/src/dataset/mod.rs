//! A data set: an index of encoded images or scenes and their labels, never the images themselves. A stream's
//! index grows as it is read.

mod content;
mod images;
mod open;
mod parting;
mod relabel;

use std::sync::{Arc, OnceLock};

pub use content::{ContentHash, ContentSet, Shares, Subset};

use crate::decoding::{BadImages, DecodeRate, DecodeTotals, Decoding};
use crate::error::DataError;
use crate::labels::LabelMap;
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
    decoding: Decoding,
}

/// Which labels a data set has.
#[derive(Clone, Debug)]
enum Relabelling {
    /// Its own.
    Own,
    /// Those of a [`LabelMap`], one for each row.
    Rows(Arc<[Option<u32>]>),
    /// Those of a [`LabelMap`], looked up as a stream is read.
    Stream(Arc<LabelMap>),
    /// None.
    Unlabelled,
}

/// What was read when the data set was opened, shared by all its parts.
#[derive(Debug)]
struct Index {
    split: String,
    class_names: Vec<String>,
    /// One for each row; empty for a stream.
    labels: Vec<Option<u32>>,
    store: Store,
    /// One for each row, computed on first use.
    hashes: OnceLock<Vec<ContentHash>>,
    /// Images that loaders left out.
    bad: BadImages,
    rates: DecodeTotals,
}

impl Dataset {
    fn whole(split: String, class_names: Vec<String>, labels: Vec<Option<u32>>, store: Store) -> Self {
        let rows = Rows::all((!matches!(store, Store::Stream(_))).then_some(labels.len()));
        let (hashes, bad, rates) = (OnceLock::new(), BadImages::default(), DecodeTotals::default());
        let index = Arc::new(Index { split, class_names, labels, store, hashes, bad, rates });
        Self { index, rows, relabelling: Relabelling::Own, decoding: Decoding::default() }
    }

    /// Whether this is a pipe or a compressed shard, which is read front to back. It cannot be shuffled or parted,
    /// a pipe cannot be read twice, and images are known only once they have been read: until then, `len` and what
    /// is asked by position leave them out. `LoaderOptions::limit` takes the first ones.
    pub fn is_stream(&self) -> bool {
        matches!(self.index.store, Store::Stream(_))
    }

    /// The images that loaders left out so far, of this data set and of all its parts, each counted once.
    pub fn bad_images(&self) -> BadImages {
        self.index.bad.clone()
    }

    /// How fast loaders have decoded this data set and all its parts, in the passes that have ended.
    pub fn decode_rate(&self) -> DecodeRate {
        self.index.rates.sum()
    }

    pub(crate) fn add_rate(&self, pass: &DecodeRate) {
        self.index.rates.add(pass);
    }

    /// How many images there are; of a stream, how many have been read.
    pub fn len(&self) -> usize {
        match &self.index.store {
            Store::Stream(stream) => stream.rows().len(),
            _ => self.rows.len(),
        }
    }

    /// Whether there is no image, as can happen to a part of a small data set. Of a stream it is unknown, and this is false.
    pub fn is_empty(&self) -> bool {
        !self.is_stream() && self.len() == 0
    }

    /// The split's name, with `val` and `valid` spelt `validation`.
    pub fn split(&self) -> &str {
        &self.index.split
    }

    /// The name of each class, by index; empty if the data set does not say.
    pub fn class_names(&self) -> &[String] {
        if matches!(self.relabelling, Relabelling::Own) { &self.index.class_names } else { &[] }
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

    /// The first `n` images of this data set, all of them if there are fewer. Of a stream, those of the first that
    /// have been read.
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

    /// The same images, those of the rows in `kept` alone.
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
