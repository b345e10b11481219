//! From scores to a reduction.

use std::ops::Range;

use vitrim_vit::{Reduction, View};

/// Keeps the `keep(b)` highest-scored patch tokens of each image b (all, where it has fewer); ties go to the
/// earlier token. `scores: [T]`, prefix rows ignored.
pub(crate) fn keep_top(view: &View<'_>, scores: &[f32], keep: impl Fn(usize) -> usize) -> Reduction {
    Reduction::keep(view.offsets, &top_kept(view, scores, keep))
}

/// Who stays in [`keep_top`], `[T]`.
pub(crate) fn top_kept(view: &View<'_>, scores: &[f32], keep: impl Fn(usize) -> usize) -> Vec<bool> {
    let mut flags = vec![true; view.total()];
    for b in 0..view.batch() {
        rank(view.patch_rows(b), scores).iter().skip(keep(b)).for_each(|&row| flags[row] = false);
    }
    flags
}

/// `rows` from the highest score to the lowest; ties go to the earlier row. `scores: [T]`.
pub(crate) fn rank(rows: Range<usize>, scores: &[f32]) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.collect();
    rows.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    rows
}

/// Who stays where `flags: [T]` says so; where fewer than `at_least` of an image would, its highest-scored ones stay in
/// their place.
pub(crate) fn at_least_kept(
    view: &View<'_>,
    scores: &[f32],
    mut flags: Vec<bool>,
    at_least: usize,
) -> Vec<bool> {
    for b in 0..view.batch() {
        flags[view.offsets[b]..view.offsets[b] + view.prefix].fill(true);
        let kept = view.patch_rows(b).filter(|&row| flags[row]).count();
        for _ in kept..at_least {
            let best = view
                .patch_rows(b)
                .filter(|&row| !flags[row])
                .max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
            if let Some(row) = best {
                flags[row] = true;
            }
        }
    }
    flags
}
