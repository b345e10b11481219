//! How a batch is split between the threads that carry its images through blocks.

use std::sync::atomic::{AtomicBool, Ordering};

use vitrim_kernels::{ROW_CHUNK, rows_per_task};

use crate::backbone::{At, Site};
use crate::places::GridPlaces;
use crate::profile::Profile;

/// Largest number of rows in a part that one thread carries through blocks, unless a single image has more.
pub(super) const PART_ROWS: usize = 384;

/// A part has at least so many rows, unless a thread would then have none: each part reads all weights again.
pub(super) const LEAST_PART_ROWS: usize = 16;

/// Smallest number of parts per thread, if there are enough images: a thread that has finished takes parts from the
/// others.
pub(super) const PARTS_PER_THREAD: usize = 4;

/// Consecutive images of a batch on their way through the blocks.
pub(super) struct Part<'a> {
    /// Residual stream, `[t, D]`.
    pub tokens: &'a mut [f32],
    /// Index of the first row of each image in the whole batch, `[b + 1]`.
    pub offsets: &'a [usize],
    /// Places of the tokens on the patch grid, `[t]`.
    pub places: GridPlaces<'a>,
    /// Bias of each key's scores, `[t]`; `None` without sizes.
    pub key_bias: Option<&'a [f32]>,
    /// Outputs of the last attention: class attention `[t]`, received attention `[t]`, keys `[t, head_dim]`, value norms
    /// `[t]` and the tokens before it `[t, D]`.
    pub cls_attention: Option<&'a mut [f32]>,
    pub received_attention: Option<&'a mut [f32]>,
    pub keys: Option<&'a mut [f32]>,
    pub value_norm: Option<&'a mut [f32]>,
    pub inputs: Option<&'a mut [f32]>,
}

impl Part<'_> {
    pub fn images(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn rows(&self) -> usize {
        self.offsets[self.images()] - self.offsets[0]
    }

    /// The first `count` rows of each image (all, if it has fewer), from the part's first row on.
    pub fn first_rows(&self, count: usize) -> Vec<usize> {
        let first = self.offsets[0];
        let of_image = |image: &[usize]| image[0] - first..image[1].min(image[0] + count) - first;
        self.offsets.windows(2).flat_map(of_image).collect()
    }

    /// Two parts with about the same number of rows; the part must have at least two images.
    pub fn halve(self, dim: usize, head_dim: usize) -> [Self; 2] {
        let (first, half) = (self.offsets[0], self.rows() / 2);
        let image = self.offsets.partition_point(|offset| offset - first < half).clamp(1, self.images() - 1);
        let row = self.offsets[image] - first;
        let (tokens, other_tokens) = self.tokens.split_at_mut(row * dim);
        let (key_bias, other_bias) = self.key_bias.map(|bias| bias.split_at(row)).unzip();
        let (cls_attention, other_attention) = self.cls_attention.map(|tap| tap.split_at_mut(row)).unzip();
        let (received_attention, other_received) =
            self.received_attention.map(|tap| tap.split_at_mut(row)).unzip();
        let (keys, other_keys) = self.keys.map(|tap| tap.split_at_mut(row * head_dim)).unzip();
        let (value_norm, other_norm) = self.value_norm.map(|tap| tap.split_at_mut(row)).unzip();
        let (inputs, other_inputs) = self.inputs.map(|tap| tap.split_at_mut(row * dim)).unzip();
        [
            Part {
                tokens,
                offsets: &self.offsets[..=image],
                places: self.places.rows(0..row),
                key_bias,
                cls_attention,
                received_attention,
                keys,
                value_norm,
                inputs,
            },
            Part {
                tokens: other_tokens,
                offsets: &self.offsets[image..],
                places: self.places.rows(row..self.places.len()),
                key_bias: other_bias,
                cls_attention: other_attention,
                received_attention: other_received,
                keys: other_keys,
                value_norm: other_norm,
                inputs: other_inputs,
            },
        ]
    }
}

/// From where to where the parts of a batch are carried.
pub(super) struct Way<'a> {
    pub from: Site,
    pub to: Site,
    /// Largest number of rows in a part.
    pub rows: usize,
    /// Threads available per image.
    pub threads: usize,
    /// Only the first so many rows of each image go through the attention; what the others hold then means nothing. `None`:
    /// all do.
    pub attending: Option<usize>,
    /// Times of all parts together.
    pub profile: Profile,
    /// Once it is set, no part goes further; what they hold then means nothing.
    pub stop: Option<&'a AtomicBool>,
}

impl Way<'_> {
    /// Whether the pass was asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Whether the way includes an attention.
    pub fn attends(&self) -> bool {
        self.from < self.to
            && (self.from.at == At::BlockInput || self.to > Site::input_of(self.from.block + 1))
    }

    /// Rows per chunk, for a part of `rows` rows.
    pub fn chunk(&self, rows: usize) -> usize {
        if rows > self.rows {
            return rows_per_task(rows);
        }
        rows.div_ceil(rows.div_ceil(ROW_CHUNK).max(1)).max(1)
    }
}
