//! The input of the first block.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::error::Result;
use crate::positions::{Resampling, resample};
use crate::spec::VitSpec;
use crate::tensors::Tensors;

/// The tokens at the input of block 0 before the patches are added.
pub(super) struct OriginEmbedding {
    /// Prefix tokens with their position embeddings, then the patches' position embeddings, `[N, D]`.
    rows: Vec<f32>,
    prefix: usize,
    dim: usize,
    /// The grid of the patches' positions, if they are resampled for each image.
    resampled_from: Option<[usize; 2]>,
}

impl OriginEmbedding {
    /// Reads the rows of `spec` from `tensors`.
    pub fn read(spec: &VitSpec, tensors: &Tensors) -> Result<Self> {
        Ok(OriginEmbedding {
            rows: origin_embedding(spec, tensors)?,
            prefix: spec.num_prefix_tokens(),
            dim: spec.dim,
            resampled_from: spec.embedding.position_grid,
        })
    }

    /// The rows of images of `grids: [B]`, one after the other, `[T, D]`.
    pub fn of(&self, grids: &[[usize; 2]]) -> Vec<f32> {
        if self.resampled_from.is_none() {
            return self.rows.repeat(grids.len());
        }
        let mut different = grids.to_vec();
        different.sort_unstable();
        different.dedup();
        let rows: Vec<Cow<'_, [f32]>> = different.par_iter().map(|grid| self.of_grid(*grid)).collect();
        let of_image = |grid| rows[different.binary_search(grid).expect("it is one of them")].as_ref();
        grids.iter().map(of_image).collect::<Vec<_>>().concat()
    }

    /// The rows of an image of `grid`, `[N, D]`.
    fn of_grid(&self, grid: [usize; 2]) -> Cow<'_, [f32]> {
        match self.resampled_from {
            Some(from) if from != grid => {
                Cow::Owned(resample(&self.rows, self.prefix, from, grid, self.dim, Resampling::Bilinear))
            }
            _ => Cow::Borrowed(&self.rows),
        }
    }

    /// Bytes of the rows.
    pub fn bytes(&self) -> usize {
        size_of_val(self.rows.as_slice())
    }
}

/// Prefix tokens with their position embeddings, then the patches' position embeddings, `[N, D]`.
fn origin_embedding(spec: &VitSpec, tensors: &Tensors) -> Result<Vec<f32>> {
    let (d, embedded) = (spec.dim, spec.embedded_prefix());
    let mut rows = Vec::with_capacity(spec.num_tokens() * d);
    for (name, count) in spec.prefix_tokens() {
        rows.extend_from_slice(&tensors.get(name, &[1, count, d])?);
    }
    if let Some(computed) = spec.computed_positions() {
        rows.extend(computed);
        return Ok(rows);
    }
    if spec.position_rows() == 0 {
        rows.resize(spec.num_tokens() * d, 0.0);
        return Ok(rows);
    }
    let positions = tensors.get("pos_embed", &[1, spec.position_rows(), d])?;
    let (of_prefix, of_patches) = positions.split_at(embedded * d);
    rows.iter_mut().zip(of_prefix).for_each(|(row, position)| *row += position);
    rows.extend_from_slice(of_patches);
    Ok(rows)
}

/// Cuts the patches from `first` on out of `image: [3, H, W]` into `patches: [n, 3 * p * p]`, each patch in the order
/// (c, y, x) of the weight.
pub(super) fn unfold(
    image: &[f32],
    [height, width]: [usize; 2],
    p: usize,
    first: usize,
    patches: &mut [f32],
) {
    let columns = width / p;
    for (i, patch) in patches.chunks_exact_mut(3 * p * p).enumerate() {
        let (top, left) = ((first + i) / columns * p, (first + i) % columns * p);
        for (j, row) in patch.chunks_exact_mut(p).enumerate() {
            let (channel, y) = (j / p, j % p);
            copy_short(&image[(channel * height + top + y) * width + left..][..p], row);
        }
    }
}

/// Copies a few values, for which a call of `memcpy` would take longer than the copy.
fn copy_short(from: &[f32], to: &mut [f32]) {
    let (from, rest) = from.as_chunks::<4>();
    let (to, last) = to.as_chunks_mut::<4>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
}
