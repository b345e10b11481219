//! Cosines of all pairs of an image's tokens.

use std::ops::Range;

use vitrim_kernels::{InstructionSet, Linear};

/// Most columns of a block.
const BLOCK: usize = 64;

/// Widths of blocks are multiples of this: whole vectors of every instruction set.
const LANES: usize = 16;

/// What a token has with itself: less than any cosine.
const ITSELF: f32 = -2.0;

/// The cosines of n vectors, `[n, n]`, in blocks of columns: one block `[n, width]` after the other. Of each pair, one
/// cosine is computed; the other is its copy.
#[derive(Default)]
pub(super) struct Cosines {
    n: usize,
    /// The vectors, divided by their norms, `[n, d]`.
    unit: Vec<f32>,
    values: Vec<f32>,
    /// Columns of a block; the last one may have less.
    width: usize,
    nearest: Vec<(f32, usize)>,
}

impl Cosines {
    /// Computes the cosines of `vectors: [n, d]`.
    pub fn compute(&mut self, vectors: &[f32], d: usize) {
        let n = vectors.len() / d;
        self.n = n;
        self.unit.clear();
        self.unit.extend_from_slice(vectors);
        InstructionSet::current().normalise_rows(&mut self.unit, d);
        self.values.resize(n * n, 0.0);
        self.nearest.resize(n, (0.0, 0));
        self.width = n.div_ceil(n.div_ceil(BLOCK).max(1)).next_multiple_of(LANES).max(LANES);
        let Cosines { unit, values, width, nearest, .. } = self;
        // Of each block, the rows up to its last column are computed, those behind are copied.
        let (mut computed, mut copied) = (Vec::new(), Vec::new());
        let mut rest = &mut values[..];
        for first in (0..n).step_by(*width) {
            let end = n.min(first + *width);
            let (block, others) = rest.split_at_mut(n * (end - first));
            let (above, below) = block.split_at_mut(end * (end - first));
            multiply(unit, d, first..end, above);
            computed.push(&*above);
            copied.push(below);
            rest = others;
        }
        for (own, (below, nearest)) in copied.into_iter().zip(nearest.chunks_mut(*width)).enumerate() {
            copy(&computed, own, below, *width);
            nearest_of_columns(computed[own], below, nearest);
        }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.n
    }

    /// The vectors, divided by their norms, `[n, d]`.
    pub fn unit(&self) -> &[f32] {
        &self.unit
    }

    /// The largest cosine of each vector and another one, and the first that has it, `[n]`.
    pub fn nearest(&self) -> &[(f32, usize)] {
        &self.nearest
    }

    /// The largest sum of a cosine of vector `i` and `reach: [n]`, and the first that has it.
    pub fn nearest_within(&self, i: usize, reach: &[f32]) -> (f32, usize) {
        let isa = InstructionSet::current();
        let mut best = (f32::NEG_INFINITY, 0);
        for (first, reach) in (0..).step_by(self.width).zip(reach.chunks(self.width)) {
            let row = &self.values[self.n * first + i * reach.len()..][..reach.len()];
            let (cosine, place) = isa.argmax_of_sums(row, reach);
            if cosine > best.0 {
                best = (cosine, first + place);
            }
        }
        best
    }

    /// The cosine of `i` and `j`; less than any if they are the same.
    #[cfg(test)]
    pub fn get(&self, i: usize, j: usize) -> f32 {
        let first = j / self.width * self.width;
        let width = self.width.min(self.n - first);
        self.values[self.n * first + i * width + j - first]
    }
}

/// Writes the products of the first vectors of `unit: [n, d]` and those of `columns` into `block: [columns.end, columns.len()]`.
fn multiply(unit: &[f32], d: usize, columns: Range<usize>, block: &mut [f32]) {
    let (first, end, width) = (columns.start, columns.end, columns.len());
    Linear::new(&unit[first * d..end * d], None, width, d).forward(&unit[..end * d], block);
    (0..width).for_each(|i| block[(first + i) * width + i] = ITSELF);
}

/// Writes the rows of block `own` that lie behind its last column into `below`: the later blocks' columns of the
/// block's own rows. Blocks are `width` columns wide, `computed` are their rows up to their last columns.
fn copy(computed: &[&[f32]], own: usize, below: &mut [f32], width: usize) {
    // Only the last block may be narrower, and nothing lies below it.
    for (later, below) in computed[own + 1..].iter().zip(below.chunks_mut(width * width)) {
        let columns = below.len() / width;
        let rows = &later[own * width * columns..][..width * columns];
        InstructionSet::current().transpose(rows, width, columns, below);
    }
}

/// Writes the largest value of each column of a block, and its row, into `nearest`; `below` continues `above`.
fn nearest_of_columns(above: &[f32], below: &[f32], nearest: &mut [(f32, usize)]) {
    let isa = InstructionSet::current();
    isa.argmax_columns(above, nearest);
    let mut others = vec![(0.0, 0); nearest.len()];
    isa.argmax_columns(below, &mut others);
    let end = above.len() / nearest.len();
    for (nearest, (cosine, row)) in nearest.iter_mut().zip(others) {
        if cosine > nearest.0 {
            *nearest = (cosine, end + row);
        }
    }
}
