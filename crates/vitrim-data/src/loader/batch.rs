//! The batches of a loader.

use std::ops::Range;

/// B images, ready for a backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The images, one after the other, each `[3, H, W]`, row-major, normalised.
    pub pixels: Vec<f32>,
    /// Height and width of each image, `[B]`, pixels: the same for all, unless images keep their aspect ratio
    /// ([`Preprocess::naflex`](crate::Preprocess::naflex)).
    pub sizes: Vec<[usize; 2]>,
    /// Labels, `[B]`; `None` if the data set has none.
    pub labels: Vec<Option<u32>>,
    /// Position of each image in the data set, `[B]`.
    pub indices: Vec<usize>,
    /// Name of each image, `[B]`: its path below the split, `file.parquet#row` or `shard.tar/member`.
    pub names: Vec<String>,
}

impl Batch {
    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no image. A [`Loader`](crate::Loader) returns such a batch only as a share of a batch that has
    /// fewer images than shares.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The part of the batch at `places`.
    #[must_use]
    pub fn part(&self, places: Range<usize>) -> Batch {
        let values = |images: &[[usize; 2]]| images.iter().map(|[height, width]| 3 * height * width).sum();
        let first: usize = values(&self.sizes[..places.start]);
        Batch {
            pixels: self.pixels[first..first + values(&self.sizes[places.clone()])].to_vec(),
            sizes: self.sizes[places.clone()].to_vec(),
            labels: self.labels[places.clone()].to_vec(),
            indices: self.indices[places.clone()].to_vec(),
            names: self.names[places].to_vec(),
        }
    }

    /// Keys of random decisions about each image, `[B]`: its position in the data set, so that the keys do not depend
    /// on the batch or the order of the pass. Two copies of an image in one data set have different keys. For single
    /// images see [`image_key`](crate::image_key).
    pub fn keys(&self) -> Vec<u64> {
        self.indices.iter().map(|&index| index as u64).collect()
    }
}
