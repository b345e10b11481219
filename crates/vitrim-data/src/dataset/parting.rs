//! Subsets of a data set by content hash, and the images that two data sets share.

use super::Dataset;
use super::content::{ContentHash, ContentSet, Excluded, Fingerprint, Shares, Subset, mark_of};
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
        let known = self.fingerprints(progress)?;
        Ok((0..self.len()).filter_map(|index| Some(known[self.row(index)?].hash)).collect())
    }

    /// The images of this data set, to be left out of another one. Reads every image's bytes, as
    /// [`Self::content_hashes`] does.
    ///
    /// # Errors
    ///
    /// A read error.
    pub fn to_exclude(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<Excluded, DataError> {
        let known = self.fingerprints(progress)?;
        let of_image = (0..self.len()).filter_map(|index| Some(known[self.row(index)?]));
        let mut excluded = Excluded::default();
        for Fingerprint { hash, mark } in of_image {
            excluded.hashes.insert(hash);
            excluded.marks.extend(mark);
        }
        Ok(excluded)
    }

    /// This data set without the images that have the bytes of one in `excluded`, and the number of images that were
    /// removed.
    ///
    /// Of files, tar shards and images in memory, only those are read whole that have the length and the last bytes of an
    /// excluded one: a million images take seconds. Of parquet, every image is read. `progress` is called with (images
    /// done, all images).
    ///
    /// # Errors
    ///
    /// A read error.
    pub fn without(
        &self,
        excluded: &Excluded,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Self, usize), DataError> {
        self.require_random_access("parted or compared by content")?;
        let store = &self.index.store;
        let rest = if self.index.fingerprints.get().is_some() || !store.shows_ends() {
            self.keep(progress, |hash| !excluded.hashes.contains(hash))?
        } else {
            let mut kept = Vec::with_capacity(self.len());
            for index in 0..self.len() {
                let row = self.row(index).expect("a position below the length");
                let differs = store.mark_of_row(row).is_some_and(|mark| !excluded.marks.contains(&mark));
                if differs
                    || !excluded.hashes.contains(&self.fingerprint(index, store.payload_of_row(row)).hash)
                {
                    kept.push(row);
                }
                progress(index + 1, self.len());
            }
            self.keeping(kept.into())
        };
        let removed = self.len() - rest.len();
        Ok((rest, removed))
    }

    fn keep(
        &self,
        progress: &mut dyn FnMut(usize, usize),
        wanted: impl Fn(&ContentHash) -> bool,
    ) -> Result<Self, DataError> {
        let known = self.fingerprints(progress)?;
        let rows = (0..self.len()).filter_map(|index| self.row(index));
        Ok(self.keeping(rows.filter(|&row| wanted(&known[row].hash)).collect()))
    }

    /// Those of every row of the index, computed on first use.
    fn fingerprints(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<&[Fingerprint], DataError> {
        if let Some(known) = self.index.fingerprints.get() {
            return Ok(known);
        }
        self.require_random_access("parted or compared by content")?;
        let whole = Self { rows: self.rows.whole(), ..self.clone() };
        let mut known = Vec::with_capacity(whole.len());
        whole.visit(Order::Sequential, 0..whole.len(), &mut |index, payload| {
            known.push(whole.fingerprint(index, payload));
            progress(known.len(), whole.len());
            true
        })?;
        Ok(self.index.fingerprints.get_or_init(|| known))
    }

    /// That of the image behind `payload`, which belongs to the image at `index`.
    fn fingerprint(&self, index: usize, payload: Payload) -> Fingerprint {
        let encoded = match payload {
            Payload::Null => Ok([].into()),
            payload => self.bytes(index, payload),
        };
        match encoded {
            Ok(encoded) => Fingerprint { hash: ContentHash::of(&encoded), mark: Some(mark_of(&encoded)) },
            // An image that cannot be read belongs to a subset, too: the loader will report it.
            Err(_) => Fingerprint { hash: ContentHash::of(self.origin(index).as_bytes()), mark: None },
        }
    }
}
