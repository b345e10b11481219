//! Merging groups of tokens.

use rayon::prelude::*;
use vitrim_vit::{Reduction, View};

use crate::pruner::{PruneError, Result};

/// A group of tokens that become one: their positions in the image, the one that stays first.
pub(super) type Group = Vec<usize>;

/// Each token of an image with `n` tokens alone.
pub(super) fn singles(n: usize) -> Vec<Group> {
    (0..n).map(|place| vec![place]).collect()
}

/// The groups in which each source of `pairs` (source, target) has joined its target, in the order of the targets.
/// A target does not leave itself.
pub(super) fn joined(n: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Vec<Group> {
    let mut groups = singles(n);
    for (from, to) in pairs {
        groups[to].push(from);
        groups[from].clear();
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Output rows of each image `b` from `of_image(b)`, which runs on several images at once.
pub(super) fn rows_of_images(
    view: &View<'_>,
    of_image: impl Fn(usize) -> Vec<Vec<(usize, f32)>> + Send + Sync,
) -> Reduction {
    let images: Vec<Vec<Vec<(usize, f32)>>> = (0..view.batch()).into_par_iter().map(of_image).collect();
    Reduction::merge(view.offsets, &images)
}

/// Merges the groups of each image into means that are weighted by size.
pub(super) fn merged_by_size(
    view: &View<'_>,
    groups: impl Fn(usize) -> Vec<Group> + Send + Sync,
) -> Reduction {
    rows_of_images(view, |b| {
        groups(b).iter().map(|group| weighted_by_size(group, view.offsets[b], view.sizes)).collect()
    })
}

/// The rows of `group` in an image that starts at row `start`, with their shares of the group's size.
fn weighted_by_size(group: &[usize], start: usize, sizes: &[f32]) -> Vec<(usize, f32)> {
    let total: f32 = group.iter().map(|place| sizes[start + place]).sum();
    group.iter().map(|place| (start + place, sizes[start + place] / total)).collect()
}

/// The keys of image `b`, `[n, head_dim]`, which `method` needs.
///
/// # Errors
/// If the view does not carry them.
pub(super) fn keys<'s>(
    view: &View<'s>,
    method: &str,
) -> Result<impl Fn(usize) -> &'s [f32] + Send + Sync + use<'s>> {
    let missing = || PruneError::KeepProfile(format!("{method} needs a view that carries keys"));
    let (keys, offsets) = (view.keys.ok_or_else(missing)?, view.offsets);
    let width = keys.len() / view.total().max(1);
    Ok(move |b: usize| &keys[offsets[b] * width..offsets[b + 1] * width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_join_their_targets() {
        assert_eq!(joined(4, [(1, 2), (0, 2)]), [vec![2, 1, 0], vec![3]]);
        assert_eq!(joined(2, []), singles(2));
        let shares = weighted_by_size(&[1, 0, 2], 3, &[9.0, 9.0, 9.0, 1.0, 2.0, 1.0]);
        assert_eq!(shares, [(4, 0.5), (3, 0.25), (5, 0.25)]);
    }
}
