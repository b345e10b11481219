//! Options of a loader.

use std::ops::Range;

use crate::decoding::OnBadImage;
use crate::transform::{Augment, Corruption};

/// Options of a [`Loader`](crate::Loader); `LoaderOptions { batch: 32, ..Default::default() }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images in a batch; 64 by default. The last batch may be smaller.
    pub batch: usize,
    /// Number of decoding threads; 0, the default, means one per core.
    pub workers: usize,
    /// Number of images at the start of the order to skip without decoding; 0 by default.
    pub skip: usize,
    /// Number of images to visit after those; all by default.
    pub limit: Option<usize>,
    /// What to do with images that cannot be decoded; `OnBadImage::Fail` by default.
    pub on_bad_image: OnBadImage,
    /// Random changes of the images, with the order's epoch (0 if it is sequential); none by default.
    pub augment: Option<Augment>,
    /// Corruption of every image, to test a model on corrupted images; none by default.
    pub corruption: Option<Corruption>,
    /// The part of each batch that is read; all of it by default.
    pub share: BatchShare,
}

/// Consecutive parts of each batch, for processes that share the work. The parts of a batch differ by at most one image.
/// No other image takes the place of one that cannot be decoded, so that it is an error whatever [`OnBadImage`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShare {
    /// The number of the first part, from 0.
    pub first: usize,
    /// The number of the last part, plus one.
    pub end: usize,
    /// The number of parts of a batch.
    pub of: usize,
}

impl BatchShare {
    /// The whole batch.
    pub const ALL: Self = Self { first: 0, end: 1, of: 1 };

    /// The part `part` of `of`.
    pub fn part(part: usize, of: usize) -> Self {
        Self { first: part, end: part + 1, of }
    }

    /// Whether it is the whole batch.
    pub fn is_all(self) -> bool {
        (self.first, self.end) == (0, self.of)
    }

    /// The places of these parts in a batch of `images` images.
    pub fn places(self, images: usize) -> Range<usize> {
        self.first * images / self.of..self.end * images / self.of
    }
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            batch: 64,
            workers: 0,
            skip: 0,
            limit: None,
            on_bad_image: OnBadImage::Fail,
            augment: None,
            corruption: None,
            share: BatchShare::ALL,
        }
    }
}
