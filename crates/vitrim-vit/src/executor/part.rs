//! How a batch is cut for threads that carry its images through blocks.

use vitrim_kernels::{ROW_CHUNK, rows_per_task};

use crate::backbone::{At, Site};
use crate::places::GridPlaces;
use crate::profile::Profile;

/// Rows of a part of a batch that a thread carries through blocks, unless a single image has more.
pub(super) const PART_ROWS: usize = 384;

/// Parts a thread at least, where there are as many images: who is done early takes over from who is late.
pub(super) const PARTS_PER_THREAD: usize = 4;

/// Images of a batch, side by side, on their way through blocks.
pub(super) struct Part<'a> {
    /// `[t, D]`.
    pub tokens: &'a mut [f32],
    /// `[b + 1]`, of the whole batch.
    pub offsets: &'a [usize],
    /// `[t]`: where on the patch grid its tokens come from.
    pub places: GridPlaces<'a>,
    /// `[t]`.
    pub key_bias: Option<&'a [f32]>,
    /// `[t]`, `[t, head_dim]` and `[t]`: what the last attention is to leave behind.
    pub cls_attention: Option<&'a mut [f32]>,
    pub keys: Option<&'a mut [f32]>,
    pub value_norm: Option<&'a mut [f32]>,
}

impl Part<'_> {
    pub fn images(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn rows(&self) -> usize {
        self.offsets[self.images()] - self.offsets[0]
    }

    /// Two of about as many rows each, of which there are at least two images.
    pub fn halve(self, dim: usize, head_dim: usize) -> [Self; 2] {
        let (first, half) = (self.offsets[0], self.rows() / 2);
        let image = self.offsets.partition_point(|offset| offset - first < half).clamp(1, self.images() - 1);
        let row = self.offsets[image] - first;
        let (tokens, other_tokens) = self.tokens.split_at_mut(row * dim);
        let (key_bias, other_bias) = self.key_bias.map(|bias| bias.split_at(row)).unzip();
        let (cls_attention, other_attention) = self.cls_attention.map(|tap| tap.split_at_mut(row)).unzip();
        let (keys, other_keys) = self.keys.map(|tap| tap.split_at_mut(row * head_dim)).unzip();
        let (value_norm, other_norm) = self.value_norm.map(|tap| tap.split_at_mut(row)).unzip();
        [
            Part {
                tokens,
                offsets: &self.offsets[..=image],
                places: self.places.rows(0..row),
                key_bias,
                cls_attention,
                keys,
                value_norm,
            },
            Part {
                tokens: other_tokens,
                offsets: &self.offsets[image..],
                places: self.places.rows(row..self.places.len()),
                key_bias: other_bias,
                cls_attention: other_attention,
                keys: other_keys,
                value_norm: other_norm,
            },
        ]
    }
}

/// Where parts of a batch go.
pub(super) struct Way {
    pub from: Site,
    pub to: Site,
    /// Rows of a part at most.
    pub rows: usize,
    /// Threads there are for each image.
    pub threads: usize,
    /// Of all parts.
    pub profile: Profile,
}

impl Way {
    /// Whether attention lies on it.
    pub fn attends(&self) -> bool {
        self.from < self.to
            && (self.from.at == At::BlockInput || self.to > Site::input_of(self.from.block + 1))
    }

    /// Rows of a chunk of a part of `rows`.
    pub fn chunk(&self, rows: usize) -> usize {
        if rows > self.rows {
            return rows_per_task(rows);
        }
        rows.div_ceil(rows.div_ceil(ROW_CHUNK).max(1)).max(1)
    }
}
