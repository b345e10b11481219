//! A product of rows and packed panels.

use crate::instruction_set::TILE_LINES;
use crate::line::{self, Line};
use crate::linear::panels::Panels;
use crate::simd::{Multiply, Prefetch, Scales, Simd, Sink};

/// `y = a b`: `a` holds `rows` rows of as many words as `panels` has steps, `a_stride` words apart, `b` the panels,
/// and `y` rows of whole vectors.
///
/// # Panics
/// If one of the three is too short.
#[inline(always)]
pub(super) fn product<S: Simd, D: Multiply<S>>(
    s: S,
    a: &[u32],
    a_stride: usize,
    rows: usize,
    panels: Panels,
    b: &[Line],
    y: &mut [u32],
) {
    let stride = panels.padded_columns::<S>();
    assert!(rows > 0 && a.len() >= (rows - 1) * a_stride + panels.steps, "rows of all steps");
    assert!(b.len() >= panels.lines::<S>(), "all panels");
    assert!(y.len() >= rows * stride, "room for the product");
    const { assert!(S::TILE_LINES <= TILE_LINES, "room for a tile's bias") };
    let zeros = [0.0; TILE_LINES * Line::WORDS];
    let (bias, scales) = (zeros.as_ptr(), Scales::NONE);
    let tiles = rows.div_ceil(D::ROWS);
    let at = |t: usize| t * rows / tiles;
    for p in 0..panels.count {
        let panel = panels.panel::<S>(p);
        for t in 0..tiles {
            let kernel = D::tile(s, at(t + 1) - at(t), panel.vectors, false);
            // SAFETY: the rows, the panel and the output lie within the slices, as just checked; the bias is as wide
            // as any tile.
            unsafe {
                let y = y.as_mut_ptr().add(at(t) * stride + panel.column).cast();
                let sink = Sink { y, stride, bias, scales, prefetch: Prefetch::NONE };
                kernel(
                    a.as_ptr().add(at(t) * a_stride),
                    a_stride,
                    line::words(b).as_ptr().add(panel.start),
                    panels.steps,
                    &sink,
                );
            }
        }
    }
}
