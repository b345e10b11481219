//! How a loader works.

use crate::decoding::OnBadImage;
use crate::transform::{Augment, Corruption};

/// How a [`Loader`](crate::Loader) works; `LoaderOptions { batch: 32, ..Default::default() }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images in a batch; 64 by default. The last batch may be smaller.
    pub batch: usize,
    /// Threads that decode; 0, the default, takes one for each core.
    pub workers: usize,
    /// Images at the start of the order to pass over without decoding them; 0 by default.
    pub skip: usize,
    /// Images to visit after those, all by default.
    pub limit: Option<usize>,
    /// What to do with corrupt images; to fail by default.
    pub on_bad_image: OnBadImage,
    /// Random changes of the images, with the order's epoch (0 if it is sequential); none by default.
    pub augment: Option<Augment>,
    /// What is done to every image, to test a model on corrupted images; nothing by default.
    pub corruption: Option<Corruption>,
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
        }
    }
}
