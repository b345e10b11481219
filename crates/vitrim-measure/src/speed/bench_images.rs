//! Images for timing: random pixels, or the first of a data set.

use vitrim_data::{Dataset, Loader, LoaderOptions, OnBadImage, Order};
use vitrim_prune::ImageKey;
use vitrim_random::uniform;
use vitrim_vit::PixelBatch;

use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::speed::Pixels;

/// Smallest number of images that are kept in memory.
pub const BENCH_IMAGES: usize = 64;

/// Images in memory for timing.
pub struct BenchImages {
    /// Pixels, one image after the other, each `[3, H, W]`.
    pub(crate) data: Vec<f32>,
    /// Height and width of each image, `[N]`, pixels.
    pub(crate) sizes: Vec<[usize; 2]>,
    /// Keys of the images, `[N]`.
    pub(crate) keys: Vec<ImageKey>,
}

impl BenchImages {
    /// Random pixels, enough for batches of `batch`.
    pub fn random(loaded: &Loaded, batch: usize) -> Self {
        let count = batch.max(BENCH_IMAGES);
        let values = loaded.transform.pixel_count();
        let pixel = |i: usize| (2.0 * uniform(&[0, i as u64]) - 1.0) as f32;
        // The pixels of one image, shifted by a few positions for each image: this is cheap, and no two images are
        // equal.
        let one: Vec<f32> = (0..values).map(pixel).collect();
        let mut data = Vec::with_capacity(count * values);
        for image in 0..count {
            let shift = 7 * image % values;
            data.extend_from_slice(&one[shift..]);
            data.extend_from_slice(&one[..shift]);
        }
        BenchImages { data, sizes: vec![loaded.spec.img_size; count], keys: (0..count as u64).collect() }
    }

    /// All images, in one batch.
    pub fn batch(&self) -> PixelBatch<'_> {
        PixelBatch::of_sizes(&self.data, &self.sizes)
    }

    /// All images.
    pub fn pixels(&self) -> Pixels<'_> {
        Pixels { data: &self.data, sizes: &self.sizes, keys: &self.keys }
    }

    /// The first images of `dataset`, repeated if there are fewer than `batch`.
    ///
    /// # Errors
    /// If they cannot be read, according to `on_bad_image`, or there are none.
    pub fn of(loaded: &Loaded, dataset: &Dataset, batch: usize, on_bad_image: OnBadImage) -> Result<Self> {
        let count = batch.max(BENCH_IMAGES);
        let options =
            LoaderOptions { batch: count, limit: Some(count), on_bad_image, ..LoaderOptions::default() };
        let mut images = BenchImages { data: Vec::new(), sizes: Vec::new(), keys: Vec::new() };
        for batch in Loader::new(dataset, Order::Sequential, &loaded.transform, options)? {
            let batch = batch?;
            images.keys.extend(batch.keys());
            images.data.extend(batch.pixels);
            images.sizes.extend(batch.sizes);
        }
        if images.keys.is_empty() {
            return Err(MeasureError::Setting("none of the images to time with can be read".into()));
        }
        let read = images.keys.len();
        let mut first = 0;
        for i in 0..count.saturating_sub(read) {
            let ([height, width], key) = (images.sizes[i], images.keys[i]);
            images.keys.push(key);
            images.sizes.push([height, width]);
            images.data.extend_from_within(first..first + 3 * height * width);
            first += 3 * height * width;
        }
        Ok(images)
    }
}
