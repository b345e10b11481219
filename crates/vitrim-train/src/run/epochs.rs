//! The batches of a data set, pass after pass, and the position of a run in them.

use vitrim_data::{Augment, Batch, BatchShare, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};
use vitrim_ranks::Ranks;

use crate::error::{Result, TrainError};

/// Training images, shuffled again for every pass.
pub struct Feed<'a> {
    /// The images.
    pub dataset: &'a Dataset,
    /// Preprocessing: from an image to pixels.
    pub transform: &'a Transform,
    /// Random changes to the images.
    pub augment: Option<Augment>,
    /// Seed of the order.
    pub seed: u64,
    /// Images of a full batch.
    pub batch: usize,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
    /// The part of each batch that is for this process.
    pub share: BatchShare,
    /// The ranks that share each batch.
    pub ranks: &'a Ranks,
}

/// The batches of a pass.
pub struct Batches<'a> {
    loader: Loader,
    feed: &'a Feed<'a>,
}

/// This rank's share of a batch.
pub struct Shared {
    /// Its images; none if the batch has fewer images than ranks.
    pub own: Batch,
    /// Number of images of the whole batch.
    pub whole: usize,
}

impl Batches<'_> {
    /// Position in the pass after the batches so far: see [`Loader::position`].
    pub fn position(&self) -> usize {
        self.loader.position()
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Shared>;

    fn next(&mut self) -> Option<Self::Item> {
        let before = self.loader.position();
        let batch = self.loader.next()?;
        let shared = |batch: Batch| {
            if !self.feed.decoded().is_all() {
                return Shared { own: batch, whole: self.loader.position() - before };
            }
            // What was left out has no place in the batch.
            let whole = batch.len();
            let part = self.feed.share.places(whole);
            let own = if part.len() == whole { batch } else { batch.part(part) };
            Shared { own, whole }
        };
        Some(batch.map(shared).map_err(Into::into))
    }
}

impl Feed<'_> {
    /// The part of each batch that is decoded here. Which image takes the place of one that is left out is known only to
    /// who decodes all of them.
    fn decoded(&self) -> BatchShare {
        match self.on_bad_image {
            OnBadImage::Skip => BatchShare::ALL,
            OnBadImage::Fail => self.share,
        }
    }

    /// The batches of pass `epoch`, from its image `skip` on.
    ///
    /// # Errors
    /// Errors of the loader.
    pub fn pass(&self, epoch: u64, skip: usize) -> Result<Batches<'_>> {
        let options = LoaderOptions {
            batch: self.batch,
            workers: self.workers,
            skip,
            limit: None,
            on_bad_image: self.on_bad_image,
            augment: self.augment,
            corruption: None,
            share: self.decoded(),
        };
        let order = Order::Shuffled { seed: self.seed, epoch };
        Ok(Batches { loader: Loader::new(self.dataset, order, self.transform, options)?, feed: self })
    }
}

/// The position of a run in its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochPosition {
    /// The pass, from 0.
    pub epoch: u64,
    /// Images of the pass that are done.
    pub done: usize,
}

/// Full batches without end. The incomplete last batch of a pass is left out, unless it is the only one.
pub struct Epochs<'a> {
    feed: &'a Feed<'a>,
    batches: Batches<'a>,
    at: EpochPosition,
}

impl<'a> Epochs<'a> {
    /// The batches from position `at` on.
    ///
    /// # Errors
    /// Errors of the loader.
    pub fn from(feed: &'a Feed<'a>, at: EpochPosition) -> Result<Self> {
        Ok(Epochs { feed, batches: feed.pass(at.epoch, at.done)?, at })
    }

    /// The current position.
    pub fn at(&self) -> EpochPosition {
        self.at
    }

    /// This rank's share of the next batch.
    ///
    /// # Errors
    /// A read error, or [`TrainError::NoImages`] if a pass has no images.
    pub fn next_batch(&mut self) -> Result<Batch> {
        loop {
            match self.batches.next().transpose()? {
                Some(Shared { own, whole }) => {
                    self.at.done = self.batches.position();
                    if whole >= self.feed.batch || self.at.done <= whole {
                        return Ok(own);
                    }
                }
                None if self.at.done == 0 => return Err(TrainError::NoImages),
                None => {
                    self.at = EpochPosition { epoch: self.at.epoch + 1, done: 0 };
                    self.batches = self.feed.pass(self.at.epoch, 0)?;
                }
            }
        }
    }
}
