//! Subsets of a data set by content hash, and the images that two data sets share.

use super::Dataset;
use super::content::{ContentHash, ContentSet, Shares, Subset};
use crate::error::DataError;
use crate::order::Order;
use crate::sources::Payload;

impl Dataset {
    /// The part of this data set that a hash of each image's encoded bytes assigns to `part`, so that
    /// copies of one file never lie in two parts.
    ///
    /// Reads every image's bytes once for all parts; `progress` is called with (images done, all images).
    ///
    /// # Errors
    ///
    /// [`DataError::Shares`], or a read error.
    pub fn by_hash(
        &self,
        part: Subset,
        shares: &Shares,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, DataError> {
        shares.validate()?;
        self.keep(progress, |hash| shares.part_of(hash) == part)
    }

    /// The hashes of the encoded bytes of this data set's images.
    ///
    /// Reads every image's bytes, once for the data set and all its parts; `progress` is called with (images done,
    /// all images).
    ///
    /// # Errors
    ///
    /// A read error.
    pub fn content_hashes(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<ContentSet, DataError> {
        Ok(self.content_hash_list(progress)?.into_iter().collect())
    }

    /// The hash of the encoded bytes of each image, in the order of the data set; otherwise like
    /// [`Self::content_hashes`].
    ///
    /// # Errors
    ///
    /// A read error.
    pub fn content_hash_list(
        &self,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<ContentHash>, DataError> {
        let hashes = self.source_hashes(progress)?;
        Ok((0..self.len()).filter_map(|index| Some(hashes[self.row(index)?])).collect())
    }

    /// This data set without the images whose encoded bytes are in `excluded`, and the number of images that were
    /// removed.
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
        Ok(self.keeping(rows.filter(|&row| wanted(&hashes[row])).collect()))
    }

    /// The hash of every row of the index, computed on first use.
    fn source_hashes(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<&[ContentHash], DataError> {
        if let Some(hashes) = self.index.hashes.get() {
            return Ok(hashes);
        }
        self.require_random_access("parted or compared by content")?;
        let whole = Self { rows: self.rows.whole(), ..self.clone() };
        let mut hashes = Vec::with_capacity(whole.len());
        whole.visit(Order::Sequential, 0..whole.len(), &mut |index, payload| {
            let hash = match payload {
                Payload::Null => ContentHash::of(&[]),
                // An image that cannot be read belongs to a subset, too: the loader will report it.
                payload => match whole.bytes(index, payload) {
                    Ok(encoded) => ContentHash::of(&encoded),
                    Err(_) => ContentHash::of(whole.origin(index).as_bytes()),
                },
            };
            hashes.push(hash);
            progress(hashes.len(), whole.len());
            true
        })?;
        Ok(self.index.hashes.get_or_init(|| hashes))
    }
}
