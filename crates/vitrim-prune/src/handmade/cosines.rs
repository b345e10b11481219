//! Cosines between the rows of a matrix.

use vitrim_kernels::{InstructionSet, Linear};

/// The rows of `rows: [n, d]`, each divided by its Euclidean norm.
pub(super) fn normed(rows: &[f32], d: usize) -> Vec<f32> {
    let mut normed = rows.to_vec();
    InstructionSet::current().normalise_rows(&mut normed, d);
    normed
}

/// The rows of `rows: [n, d]` at `places`, `[places, d]`.
pub(super) fn gathered(rows: &[f32], places: &[usize], d: usize) -> Vec<f32> {
    places.iter().flat_map(|place| &rows[place * d..(place + 1) * d]).copied().collect()
}

/// The product of every row of `a: [n, d]` with every row of `b: [m, d]`, `[n, m]`.
pub(super) fn products(a: &[f32], b: &[f32], d: usize) -> Vec<f32> {
    let (n, m) = (a.len() / d, b.len() / d);
    let mut products = vec![0.0; n * m];
    if n > 0 && m > 0 {
        Linear::new(b, None, m, d).forward(a, &mut products);
    }
    products
}

/// For each row of `scores: [n, m]`, m > 0, its largest value and where it is (the first, if several are equal).
pub(super) fn best_of_rows(scores: &[f32], m: usize) -> Vec<(f32, usize)> {
    let mut best = vec![(0.0, 0); scores.len() / m];
    InstructionSet::current().argmax_rows(scores, m, &mut best);
    best
}
