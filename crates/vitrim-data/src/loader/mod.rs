//! Batches of pixels, decoded on threads ahead of the consumer, in an order that does not depend on
//! how many threads there are.
//!
//! One reader thread walks the data set, workers decode and transform, and the consumer puts results back in order.
//! The reader takes a permit for each image and the consumer returns it, which bounds the number of decoded images in
//! memory to one batch and a few more.

mod batch;
mod options;
mod threads;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

pub use batch::Batch;
pub use options::{BatchShare, LoaderOptions};
use threads::{ImageOutcome, Threads};

use crate::dataset::Dataset;
use crate::decoding::{BadImages, DecodeRate, OnBadImage};
use crate::error::DataError;
use crate::order::Order;
use crate::transform::Transform;

/// One pass over a data set, as an iterator of batches. Dropping it stops its threads.
///
/// After an error it ends.
pub struct Loader {
    dataset: Dataset,
    transform: Transform,
    options: LoaderOptions,
    /// Number of images to visit, bad ones included; for a stream, the largest number.
    total: usize,
    /// Number of images taken in order so far, bad ones included; of each batch, those of the share.
    taken: usize,
    /// Number of images in the whole batches so far, if only a share of them is read.
    passed: usize,
    /// Results that arrived before their turn, by position in the pass.
    early: HashMap<usize, ImageOutcome>,
    threads: Threads,
    bad: BadImages,
    /// The images that were left out for the last batch.
    left_out: Vec<(usize, DataError)>,
    failed: bool,
    /// Time for which the consumer waited for images.
    waited: Duration,
}

impl Loader {
    /// Starts reading `dataset` in `order`.
    ///
    /// # Errors
    ///
    /// [`DataError::ZeroBatch`], [`DataError::Augment`], or [`DataError::Threads`] if threads cannot be
    /// started.
    pub fn new(
        dataset: &Dataset,
        order: Order,
        transform: &Transform,
        options: LoaderOptions,
    ) -> Result<Self, DataError> {
        if options.batch == 0 {
            return Err(DataError::ZeroBatch);
        }
        if let Some(augment) = options.augment {
            let [_, height, width] = transform.preprocess().input_size;
            augment.validate(height, width)?;
        }
        let left = dataset.end().saturating_sub(options.skip);
        let total = options.limit.map_or(left, |limit| limit.min(left));
        let first = options.skip.min(dataset.end());
        let threads = Threads::start(dataset, order, transform, first..first + total, &options)?;
        Ok(Self {
            dataset: dataset.clone(),
            transform: transform.clone(),
            options,
            total,
            taken: 0,
            passed: 0,
            early: HashMap::new(),
            threads,
            bad: BadImages::default(),
            left_out: Vec::new(),
            failed: false,
            waited: Duration::ZERO,
        })
    }

    /// Number of images that this pass visits, bad ones included; for a stream without a limit, those visited so far.
    pub fn total(&self) -> usize {
        if self.dataset.is_stream() && self.options.limit.is_none() { self.taken } else { self.total }
    }

    /// The decoding rate so far.
    pub fn rate(&self) -> DecodeRate {
        let (images, busy_s, threads) = self.threads.work();
        DecodeRate::of(images, threads, busy_s, self.waited.as_secs_f64())
    }

    /// The position in the order after the batches returned so far, bad images and those skipped at the start
    /// included: the [`LoaderOptions::skip`] of a resumed pass. Of batches of which a share is read, all images count.
    pub fn position(&self) -> usize {
        self.options.skip + if self.is_shared() { self.passed } else { self.taken }
    }

    fn is_shared(&self) -> bool {
        !self.options.share.is_all()
    }

    /// The images left out under [`OnBadImage::Skip`]; stays readable after the loader is gone.
    pub fn bad_images(&self) -> BadImages {
        self.bad.clone()
    }

    /// The images that were left out under [`OnBadImage::Skip`] while the last batch was filled, or since that batch if
    /// there is none any more: their positions in the data set, and why.
    pub fn left_out(&self) -> &[(usize, DataError)] {
        &self.left_out
    }

    /// The next image's result in order; `None` after the last.
    fn take(&mut self) -> Option<ImageOutcome> {
        if self.taken == self.total {
            return None;
        }
        while !self.early.contains_key(&self.taken) {
            let asked = Instant::now();
            let ready = self.threads.results().and_then(|results: &Receiver<_>| results.recv().ok());
            self.waited += asked.elapsed();
            match ready {
                Some((place, outcome)) => {
                    self.early.insert(place, outcome);
                }
                None => {
                    let what = "ended early".into();
                    return Some(ImageOutcome::Broken(DataError::Threads { what }));
                }
            }
        }
        let outcome = self.early.remove(&self.taken);
        if let Some(ImageOutcome::End) = outcome {
            self.total = self.taken;
            return None;
        }
        self.taken += 1;
        self.threads.give_permit();
        outcome
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        let shared = self.is_shared();
        let (size, wanted) = if shared {
            let whole = self.options.batch.min(self.total - self.passed);
            if whole == 0 {
                return Ok(None);
            }
            self.passed += whole;
            let own = self.options.share.places(whole).len();
            (own, own)
        } else {
            (self.options.batch.min(self.total() - self.taken), self.options.batch)
        };
        self.left_out.clear();
        let mut batch = Batch {
            pixels: Vec::with_capacity(size * self.transform.pixel_count()),
            sizes: Vec::with_capacity(size),
            labels: Vec::with_capacity(size),
            indices: Vec::with_capacity(size),
            names: Vec::with_capacity(size),
        };
        while batch.len() < wanted {
            match self.take() {
                None | Some(ImageOutcome::End) => break,
                Some(ImageOutcome::Pixels { index, pixels, size }) => {
                    batch.pixels.extend_from_slice(&pixels);
                    batch.sizes.push(size);
                    batch.labels.push(self.dataset.label(index));
                    batch.names.push(self.dataset.name(index));
                    batch.indices.push(index);
                }
                // What is left of a file that changes is not what was opened: that is no bad image.
                Some(ImageOutcome::Bad(_, error @ DataError::Changed { .. })) => return Err(error),
                Some(ImageOutcome::Bad(index, error))
                    if self.options.on_bad_image == OnBadImage::Skip && !shared =>
                {
                    self.bad.add(&error);
                    self.dataset.left_out(index, &error);
                    self.left_out.push((index, error));
                }
                Some(ImageOutcome::Bad(_, error) | ImageOutcome::Broken(error)) => return Err(error),
            }
        }
        Ok((shared || !batch.is_empty()).then_some(batch))
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_batch();
        self.failed = next.is_err();
        next.transpose()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.dataset.add_rate(&self.rate());
    }
}
