//! From scores to a reduction.

use std::ops::Range;

use vitrim_vit::{Reduction, View};

/// Keeps the `keep(b)` highest-scored patch tokens of each image b (all, if it has fewer); ties go to the earlier
/// token. `scores: [T]`, prefix rows ignored.
pub(crate) fn keep_top(view: &View<'_>, scores: &[f32], keep: impl Fn(usize) -> usize) -> Reduction {
    let mut flags = vec![true; view.total()];
    for b in 0..view.batch() {
        rank(view.patch_rows(b), scores).iter().skip(keep(b)).for_each(|&row| flags[row] = false);
    }
    Reduction::keep(view.offsets, &flags)
}

/// `rows` from the highest score to the lowest; ties go to the earlier row. `scores: [T]`.
pub(crate) fn rank(rows: Range<usize>, scores: &[f32]) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.collect();
    rows.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    rows
}
