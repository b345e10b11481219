//! The batches of a data set, pass after pass, as far as a run has come.

use vitrim_data::{Augment, Batch, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};

use crate::error::{Result, TrainError};

/// Training images, shuffled anew for every pass.
pub struct Feed<'a> {
    /// The images.
    pub dataset: &'a Dataset,
    /// Image to pixels.
    pub transform: &'a Transform,
    /// Random changes to them.
    pub augment: Option<Augment>,
    /// Seed of their order.
    pub seed: u64,
    /// Images of a full batch.
    pub batch: usize,
    /// Decoding threads; 0 for one a core.
    pub workers: usize,
    /// What a corrupt image does.
    pub on_bad_image: OnBadImage,
}

impl Feed<'_> {
    /// The batches of pass `epoch`, from its image `skip` on.
    ///
    /// # Errors
    /// What the loader refuses.
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

/// How far a run has come in its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochPosition {
    /// The pass, from 0.
    pub epoch: u64,
    /// Images of the pass that are done.
    pub done: usize,
}

/// Full batches without end. The ragged end of a pass is left out, unless the pass has nothing else.
pub struct Epochs<'a> {
    feed: &'a Feed<'a>,
    batches: Loader,
    at: EpochPosition,
}

impl<'a> Epochs<'a> {
    /// From `at` on.
    ///
    /// # Errors
    /// What the loader refuses.
    pub fn from(feed: &'a Feed<'a>, at: EpochPosition) -> Result<Self> {
        Ok(Epochs { feed, batches: feed.pass(at.epoch, at.done)?, at })
    }

    /// How far it has come.
    pub fn at(&self) -> EpochPosition {
        self.at
    }

    /// The next batch.
    ///
    /// # Errors
    /// What cannot be read, or [`TrainError::NoImages`] if a pass has none.
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
