//! The batches of a loader.

/// B images, ready for a backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B, 3, H, W]`, row-major, normalised.
    pub pixels: Vec<f32>,
    /// Shape of `pixels`, `[B, 3, H, W]`.
    pub shape: [usize; 4],
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

    /// Whether there is no image. A [`Loader`](crate::Loader) never returns such a batch.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Keys of random decisions about each image, `[B]`: its position in the data set, so that the keys do not depend
    /// on the batch or the order of the pass. Two copies of an image in one data set have different keys. For single
    /// images see [`image_key`](crate::image_key).
    pub fn keys(&self) -> Vec<u64> {
        self.indices.iter().map(|&index| index as u64).collect()
    }
}
