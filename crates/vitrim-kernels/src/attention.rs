//! Multi-head self-attention over a packed batch: each image attends to itself alone.

use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use crate::elementwise::softmax;

thread_local! {
    /// One a thread, since the executor is `Sync` but not `Send`.
    static GEMM: GemmExecutor<f32> = GemmExecutor::new();
}

/// Attention of `heads` heads over `[T, 3, heads, head_dim]` rows (timm's `qkv` output).
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Whether row 0 of each image is a class token: its row is then the attention tap; else the mean
    /// attention that each token receives.
    pub class_token: bool,
}

/// What attention leaves behind on request, see [`Attention::forward`] and [`Attention::tap_projections`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionTaps {
    /// `[T]`: mean over heads of the class token's attention (or of the attention received).
    pub cls_attention: Option<Vec<f32>>,
    /// `[T, head_dim]`: mean over heads of the keys.
    pub keys: Option<Vec<f32>>,
    /// `[T]`: norm of the values over all heads.
    pub value_norm: Option<Vec<f32>>,
}

impl Attention {
    /// Channels of a row: `heads * head_dim`.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// `out: [T, dim]` for `qkv: [T, 3 * dim]` and `offsets: [B + 1]`. `scratch` is resized to
    /// `[T, dim]`. With `cls_attention: [T]`, fills it (see [`AttentionTaps`]).
    ///
    /// # Panics
    /// If a length does not match.
    pub fn forward(
        &self,
        qkv: &[f32],
        offsets: &[usize],
        out: &mut [f32],
        scratch: &mut Vec<f32>,
        cls_attention: Option<&mut [f32]>,
    ) {
        let (dim, d) = (self.dim(), self.head_dim);
        let total = offsets[offsets.len() - 1];
        assert!(qkv.len() == total * 3 * dim && out.len() == total * dim, "qkv is [T, 3D], out is [T, D]");
        scratch.resize(total * dim, 0.0);
        let mut received = vec![0.0; if cls_attention.is_some() { total * self.heads } else { 0 }];

        // One task an image and head; each owns a contiguous [n, head_dim] piece of the scratch.
        let mut tasks = Vec::with_capacity((offsets.len() - 1) * self.heads);
        let (mut pieces, mut taps) = (scratch.as_mut_slice(), received.as_mut_slice());
        for image in offsets.windows(2) {
            let n = image[1] - image[0];
            for head in 0..self.heads {
                let (piece, rest) = pieces.split_at_mut(n * d);
                let (tap, rest_taps) = taps.split_at_mut(if cls_attention.is_some() { n } else { 0 });
                (pieces, taps) = (rest, rest_taps);
                if n > 0 {
                    tasks.push((image[0], n, head, piece, tap));
                }
            }
        }
        tasks.into_par_iter().for_each_init(Vec::new, |scores, (start, n, head, piece, tap)| {
            self.head(&qkv[start * 3 * dim..(start + n) * 3 * dim], n, head, scores, piece, tap);
        });

        // Back from [image][head][n, head_dim] to [T, heads * head_dim].
        let mut images = Vec::with_capacity(offsets.len() - 1);
        let mut rest = out;
        for image in offsets.windows(2) {
            let (rows, tail) = rest.split_at_mut((image[1] - image[0]) * dim);
            images.push((image[0], rows));
            rest = tail;
        }
        images.into_par_iter().for_each(|(start, rows)| {
            let n = rows.len() / dim;
            let pieces = &scratch[start * dim..(start + n) * dim];
            for (t, row) in rows.chunks_exact_mut(dim).enumerate() {
                for (head, to) in row.chunks_exact_mut(d).enumerate() {
                    to.copy_from_slice(&pieces[(head * n + t) * d..][..d]);
                }
            }
        });

        if let Some(tap) = cls_attention {
            for image in offsets.windows(2) {
                let n = image[1] - image[0];
                let heads = &received[image[0] * self.heads..image[1] * self.heads];
                for (t, value) in tap[image[0]..image[1]].iter_mut().enumerate() {
                    let sum: f32 = (0..self.heads).map(|h| heads[h * n + t]).sum();
                    *value = sum / self.heads as f32;
                }
            }
        }
    }

    /// One head of one image: `qkv: [n, 3 dim]`, `out: [n, head_dim]`, `tap: [n]` or empty.
    fn head(
        &self,
        qkv: &[f32],
        n: usize,
        head: usize,
        scores: &mut Vec<f32>,
        out: &mut [f32],
        tap: &mut [f32],
    ) {
        let (dim, d) = (self.dim(), self.head_dim);
        let part = |i: usize| {
            NdTensorView::from_data_with_strides([n, d], &qkv[i * dim + head * d..], [3 * dim, 1])
                .expect("rows of a qkv matrix do not overlap")
        };
        scores.resize(n * n, 0.0);
        let scaled = GemmOptions { alpha: (d as f32).sqrt().recip(), ..Default::default() };
        let (q, k) = (GemmInputA::Unpacked(part(0)), part(1));
        GEMM.with(|gemm| gemm.gemm(scores, q, GemmInputB::Unpacked(k.transposed()), scaled))
            .expect("q is [n, d] and k^T is [d, n]");
        for row in scores.chunks_exact_mut(n) {
            softmax(row);
        }
        if !tap.is_empty() {
            if self.class_token {
                tap.copy_from_slice(&scores[..n]);
            } else {
                tap.fill(0.0);
                for row in scores.chunks_exact(n) {
                    tap.iter_mut().zip(row).for_each(|(t, p)| *t += p / n as f32);
                }
            }
        }
        let probabilities = NdTensorView::from_data([n, n], &scores[..]);
        let (p, v) = (GemmInputA::Unpacked(probabilities), GemmInputB::Unpacked(part(2)));
        GEMM.with(|gemm| gemm.gemm(out, p, v, GemmOptions::default())).expect("p is [n, n] and v is [n, d]");
    }

    /// Mean keys over heads (`[T, head_dim]`) and norms of the values (`[T]`) of `qkv: [T, 3 * dim]`.
    pub fn tap_projections(&self, qkv: &[f32], keys: bool, value_norm: bool) -> AttentionTaps {
        let (dim, d) = (self.dim(), self.head_dim);
        let rows = || qkv.chunks_exact(3 * dim);
        AttentionTaps {
            cls_attention: None,
            keys: keys.then(|| {
                let scale = 1.0 / self.heads as f32;
                rows()
                    .flat_map(|row| {
                        let k = &row[dim..2 * dim];
                        (0..d).map(move |i| (0..self.heads).map(|h| k[h * d + i]).sum::<f32>() * scale)
                    })
                    .collect()
            }),
            value_norm: value_norm.then(|| {
                rows().map(|row| row[2 * dim..].iter().map(|v| v * v).sum::<f32>().sqrt()).collect()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    proptest! {
        #[test]
        fn equals_the_reference(
            lengths in proptest::collection::vec(0usize..20, 1..5), heads in 1usize..4, d in 1usize..20,
            class_token: bool, seed: u64,
        ) {
            let attention = Attention { heads, head_dim: d, class_token };
            let dim = heads * d;
            let mut offsets = vec![0];
            lengths.iter().for_each(|n| offsets.push(offsets[offsets.len() - 1] + n));
            let total = offsets[lengths.len()];
            let mut values = reference::values(seed);
            let qkv: Vec<f32> = (0..total * 3 * dim).map(|_| values() * 2.0).collect();
            let (mut out, mut tap) = (vec![0.0; total * dim], vec![0.0; total]);
            attention.forward(&qkv, &offsets, &mut out, &mut Vec::new(), Some(&mut tap));
            let projections = attention.tap_projections(&qkv, true, true);
            let (keys, norms) = (projections.keys.unwrap(), projections.value_norm.unwrap());
            for image in offsets.windows(2) {
                let n = image[1] - image[0];
                if n == 0 { continue; }
                let rows = &qkv[image[0] * 3 * dim..image[1] * 3 * dim];
                let (expected, p) = reference::attention(rows, &vec![true; n], heads);
                prop_assert!(reference::max_difference(&out[image[0] * dim..image[1] * dim], &expected) < 1e-4);
                for t in 0..n {
                    let mean: f32 = (0..heads).map(|h| if class_token {
                        p[h * n * n + t]
                    } else {
                        (0..n).map(|q| p[(h * n + q) * n + t]).sum::<f32>() / n as f32
                    }).sum::<f32>() / heads as f32;
                    prop_assert!((tap[image[0] + t] - mean).abs() < 1e-5);
                    let row = &rows[t * 3 * dim..(t + 1) * 3 * dim];
                    let key0 = (0..heads).map(|h| row[dim + h * d]).sum::<f32>() / heads as f32;
                    prop_assert!((keys[(image[0] + t) * d] - key0).abs() < 1e-5);
                    let norm = row[2 * dim..].iter().map(|v| v * v).sum::<f32>().sqrt();
                    prop_assert!((norms[image[0] + t] - norm).abs() < 1e-4);
                }
            }
        }
    }
}
