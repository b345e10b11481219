//! The batches of a data set, pass after pass, and the position of a run in them.

use vitrim_data::{Augment, Batch, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};

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
}

impl Feed<'_> {
    /// The batches of pass `epoch`, from its image `skip` on.
    ///
    /// # Errors
    /// Errors of the loader.
    pub fn pass(&self, epoch: u64, skip: usize) -> Result<Loader> {
        let options = LoaderOptions {
            batch: self.batch,
            workers: self.workers,
            skip,
            limit: None,
            on_bad_image: self.on_bad_image,
            augment: self.augment,
            corruption: None,
        };
        let order = Order::Shuffled { seed: self.seed, epoch };
        Ok(Loader::new(self.dataset, order, self.transform, options)?)
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
    batches: Loader,
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

    /// The next batch.
    ///
    /// # Errors
    /// A read error, or [`TrainError::NoImages`] if a pass has no images.
    pub fn next_batch(&mut self) -> Result<Batch> {
        loop {
            match self.batches.next().transpose()? {
                Some(batch) => {
                    self.at.done = self.batches.position();
                    if batch.len() >= self.feed.batch || self.at.done <= batch.len() {
                        return Ok(batch);
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
