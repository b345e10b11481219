//! The batches of a data set, pass after pass, as far as a run has come.

use vitrim_data::{Batch, Loader};

use crate::error::{Result, TrainError};

/// Full batches without end. The ragged end of a pass is left out, unless the pass has nothing else.
pub struct Epochs<'a> {
    /// The batches of a pass, from so many images on.
    open: Box<dyn Fn(u64, usize) -> Result<Loader> + 'a>,
    batches: Loader,
    /// Images of a full batch.
    batch: usize,
    /// The pass, and how many of its images are done.
    at: (u64, usize),
}

impl<'a> Epochs<'a> {
    /// From image `position` of pass `epoch` on; `open` gives a pass's batches of `batch` images.
    ///
    /// # Errors
    /// What `open` says.
    pub fn from(
        (epoch, position): (u64, usize),
        batch: usize,
        open: impl Fn(u64, usize) -> Result<Loader> + 'a,
    ) -> Result<Self> {
        let batches = open(epoch, position)?;
        Ok(Epochs { open: Box::new(open), batches, batch, at: (epoch, position) })
    }

    /// The pass, and how many of its images are done.
    pub fn at(&self) -> (u64, usize) {
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
                    self.at.1 = self.batches.position();
                    if batch.len() >= self.batch || self.at.1 <= batch.len() {
                        return Ok(batch);
                    }
                }
                None if self.at.1 == 0 => return Err(TrainError::NoImages),
                None => {
                    self.at = (self.at.0 + 1, 0);
                    self.batches = (self.open)(self.at.0, 0)?;
                }
            }
        }
    }
}
