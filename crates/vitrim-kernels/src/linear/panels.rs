//! A matrix cut into column panels, in the order in which a tile reads it.

use std::ops::Range;

use crate::line::{Line, words_mut};
use crate::simd::Simd;

/// The layout of `columns` outputs of `steps` words each in panels of at most `NV` vectors: panel after panel, in
/// each panel step after step, in each step its columns. Columns beyond the last are zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub columns: usize,
    pub steps: usize,
    /// Total number of vectors of all panels.
    vectors: usize,
    pub count: usize,
}

/// The place of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// First column.
    pub column: usize,
    /// Number of vectors.
    pub vectors: usize,
    /// First word.
    pub start: usize,
}

/// The words that are multiplied in one go: the steps of a slice, in the columns of a panel.
pub(crate) struct Part {
    pub panel: Panel,
    pub steps: Range<usize>,
    /// The range of its words in the panels.
    pub words: Range<usize>,
}

impl Panels {
    /// The panels for instruction set `S`, of about equal width, so that no panel is too narrow to keep the processor
    /// busy.
    pub fn new<S: Simd>(columns: usize, steps: usize) -> Self {
        let vectors = columns.div_ceil(S::LANES);
        Panels { columns, steps, vectors, count: vectors.div_ceil(S::NV) }
    }

    /// Panel `i < count`.
    #[inline(always)]
    pub fn panel<S: Simd>(&self, i: usize) -> Panel {
        let at = |i: usize| i * self.vectors / self.count;
        let column = at(i) * S::LANES;
        Panel { column, vectors: at(i + 1) - at(i), start: column * self.steps }
    }

    /// Part `i < slices * count`: slice after slice of the steps, of about equal size; in each slice panel after
    /// panel.
    #[inline(always)]
    pub fn part<S: Simd>(&self, i: usize, slices: usize) -> Part {
        let (slice, panel) = (i / self.count, self.panel::<S>(i % self.count));
        let at = |slice: usize| slice * self.steps / slices;
        let (steps, width) = (at(slice)..at(slice + 1), panel.vectors * S::LANES);
        Part { panel, words: panel.start + steps.start * width..panel.start + steps.end * width, steps }
    }

    /// Number of columns, including those that pad the last vector.
    pub fn padded_columns<S: Simd>(&self) -> usize {
        self.vectors * S::LANES
    }

    /// Lines that hold all panels.
    pub fn lines<S: Simd>(&self) -> usize {
        (self.padded_columns::<S>() * self.steps).div_ceil(Line::WORDS)
    }

    /// Packs `source`, whose row `c`, `stride` words from the next, holds the words of column `c`.
    ///
    /// # Panics
    /// If `source` or `lines` is too short.
    #[inline(always)]
    pub fn pack_transposed<S: Simd>(&self, s: S, source: &[u32], stride: usize, lines: &mut [Line]) {
        assert!(
            self.columns == 0 || source.len() >= (self.columns - 1) * stride + self.steps,
            "whole columns"
        );
        assert!(lines.len() >= self.lines::<S>(), "room for all panels");
        for i in 0..self.count {
            let panel = self.panel::<S>(i);
            let width = panel.vectors * S::LANES;
            for v in 0..panel.vectors {
                let column = panel.column + v * S::LANES;
                for step in (0..self.steps).step_by(S::LANES) {
                    // SAFETY: the source holds `steps` words of each of `columns` columns, and the panels hold a
                    // vector at each step, as checked above.
                    unsafe {
                        s.transpose(
                            source.as_ptr().add(column * stride + step),
                            stride,
                            (self.columns - column).min(S::LANES),
                            (self.steps - step).min(S::LANES),
                            words_mut(lines).as_mut_ptr().add(panel.start + step * width + v * S::LANES),
                            width,
                        );
                    }
                }
            }
        }
    }

    /// Packs `source`, whose row `k`, `stride` values from the next, holds step `k` of all columns.
    ///
    /// # Panics
    /// If `source` or `lines` is too short.
    #[inline(always)]
    pub fn pack_rows<S: Simd>(&self, s: S, source: &[f32], stride: usize, lines: &mut [Line]) {
        for i in 0..self.count {
            let panel = self.panel::<S>(i);
            for step in 0..self.steps {
                let row = &source[step * stride..][..self.columns];
                for v in 0..panel.vectors {
                    self.put(s, lines, panel, step, v, s.load(&row[panel.column + v * S::LANES..]));
                }
            }
        }
    }

    /// Stores a vector of the matrix at step `step` of vector `v` of `panel`.
    ///
    /// # Panics
    /// If it lies outside `lines`.
    #[inline(always)]
    pub fn put<S: Simd>(&self, s: S, lines: &mut [Line], panel: Panel, step: usize, v: usize, value: S::V) {
        let at = panel.start + (step * panel.vectors + v) * S::LANES;
        assert!(at + S::LANES <= lines.len() * Line::WORDS, "inside the panels");
        // SAFETY: just checked.
        unsafe { s.store_all(words_mut(lines).as_mut_ptr().add(at), value) };
    }
}
