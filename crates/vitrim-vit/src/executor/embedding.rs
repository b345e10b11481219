//! The input of the first block.

use crate::error::Result;
use crate::spec::VitSpec;
use crate::tensors::Tensors;

/// Prefix tokens with their position embeddings, then the patches' position embeddings, `[N, D]`.
pub(super) fn origin_embedding(spec: &VitSpec, tensors: &Tensors) -> Result<Vec<f32>> {
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
