//! The gradient of attention of one head of one image, in f32.

use std::cell::RefCell;

use super::head::Strided;
use super::product::product;
use crate::elementwise::{softmax_backward_row, softmax_row};
use crate::line::{Line, floats, floats_mut};
use crate::linear::panels::Panels;
use crate::simd::{F32, Kernel, Simd};
use crate::transpose::transpose;
use crate::word::words;

/// Buffers of one thread, reused by its next head.
#[derive(Default)]
pub(super) struct Scratch {
    panels: Vec<Line>,
    /// Probabilities, `[n, stride]`.
    probabilities: Vec<u32>,
    /// The gradient in the probabilities, then in the scores, `[n, stride]`.
    gradient: Vec<u32>,
    /// Probabilities or their gradient, transposed, `[n, stride]`.
    transposed: Vec<u32>,
    /// One of the three gradients, `[n, padded head_dim]`.
    sums: Vec<u32>,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One head over `n` tokens. Scores and probabilities are computed again: this costs a sixth of the products, and the
/// forward pass need not store them.
pub(super) struct HeadBackward<'a> {
    /// The head's rows, as in [`super::head::Head::qkv`]; `stride` and `part` describe their layout.
    pub qkv: &'a [f32],
    pub n: usize,
    pub stride: usize,
    pub part: usize,
    pub head_dim: usize,
    /// The gradient of the loss with respect to the head's output: `[n, part]` from the head's first channel on.
    pub gradient: &'a [f32],
    /// Destinations of the gradients of queries, keys and values.
    pub out: [Strided<f32>; 3],
    pub scratch: &'a mut Scratch,
}

impl Kernel for HeadBackward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let HeadBackward { qkv, n, stride: row, part, head_dim, gradient, out, scratch } = self;
        let [mut dq, mut dk, mut dv] = out;
        let (queries, keys, values) = (qkv, &qkv[part..], &qkv[2 * part..]);
        let by_token = Panels::new::<S>(n, head_dim);
        let by_channel = Panels::new::<S>(head_dim, n);
        let (stride, width) = (by_token.padded_columns::<S>(), by_channel.padded_columns::<S>());
        let Scratch { panels, probabilities, gradient: ds, transposed, sums } = scratch;
        panels.resize(by_token.lines::<S>().max(by_channel.lines::<S>()), Line::ZERO);
        for buffer in [&mut *probabilities, ds, transposed] {
            buffer.resize(n * stride, 0);
        }
        sums.resize(n * width, 0);
        let scale = (head_dim as f32).sqrt().recip();

        // P = softmax(scale Q K^T)
        by_token.pack_transposed(s, words(keys), row, panels);
        product::<S, F32>(s, words(queries), row, n, by_token, panels, probabilities);
        for row in floats_mut(probabilities).chunks_exact_mut(stride) {
            softmax_row(s, &mut row[..n], scale);
        }

        // dV = P^T dO
        transpose(s, probabilities, stride, [n, n], transposed, stride);
        by_channel.pack_rows(s, gradient, part, panels);
        product::<S, F32>(s, transposed, stride, n, by_channel, panels, sums);
        copy_rows(sums, width, &mut dv);

        // dS = scale P (dP - sum(P dP)) with dP = dO V^T
        by_token.pack_transposed(s, words(values), row, panels);
        product::<S, F32>(s, words(gradient), part, n, by_token, panels, ds);
        let rows = floats(probabilities).chunks_exact(stride).zip(floats_mut(ds).chunks_exact_mut(stride));
        for (p, ds) in rows {
            softmax_backward_row(s, &p[..n], &mut ds[..n], scale);
        }

        // dQ = dS K
        by_channel.pack_rows(s, keys, row, panels);
        product::<S, F32>(s, ds, stride, n, by_channel, panels, sums);
        copy_rows(sums, width, &mut dq);

        // dK = dS^T Q
        transpose(s, ds, stride, [n, n], transposed, stride);
        by_channel.pack_rows(s, queries, row, panels);
        product::<S, F32>(s, transposed, stride, n, by_channel, panels, sums);
        copy_rows(sums, width, &mut dk);
    }
}

/// Copies the rows of `sums: [n, width]` to `out`.
fn copy_rows(sums: &[u32], width: usize, out: &mut Strided<f32>) {
    for (i, sums) in floats(sums).chunks_exact(width).enumerate() {
        let out = out.row(i);
        out.copy_from_slice(&sums[..out.len()]);
    }
}
