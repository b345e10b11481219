//! What a loader gives.

/// B images, ready for a backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B, 3, H, W]`, row-major, normalised.
    pub pixels: Vec<f32>,
    /// `[B, 3, H, W]`.
    pub shape: [usize; 4],
    /// `[B]`; `None` where the data set has no label.
    pub labels: Vec<Option<u32>>,
    /// `[B]`; each image's position in the data set.
    pub indices: Vec<usize>,
    /// `[B]`; each image's path below its split, `file.parquet#row` or
    /// `shard.tar/member`.
    pub names: Vec<String>,
}

impl Batch {
    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no image. A [`Loader`](crate::Loader) gives no such batch.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// `[B]`; what random decisions about each image are keyed by: its position in the data set, so that neither the
    /// batch nor the order of the pass changes them. Two copies of an image in one data set have two keys. For single
    /// images see [`image_key`](crate::image_key).
    pub fn keys(&self) -> Vec<u64> {
        self.indices.iter().map(|&index| index as u64).collect()
    }
}
