//! Resampling of position embeddings to another grid, with the result of the checkpoint's own library.

/// The arguments of PyTorch's `interpolate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resampling {
    /// `mode="bicubic", antialias=True`: a = -0.5, wider when shrinking, as in timm's `resample_abs_pos_embed` and
    /// transformers' DINOv2 with registers.
    Bicubic,
    /// `mode="bicubic"` without antialiasing: a = -0.75, four taps, the border repeated, as in transformers' ViT, DeiT and
    /// DINOv2.
    PlainBicubic,
    /// `mode="bilinear", antialias=True`: wider when shrinking, as in transformers' SigLIP 2 for the grid of each image.
    Bilinear,
    /// As [`Resampling::Bicubic`], to a square grid of the longer side, of which the rest is left out (timm's
    /// `pos_embed_ar_preserving`).
    SquareBicubic,
    /// As [`Resampling::Bilinear`], likewise.
    SquareBilinear,
}

impl Resampling {
    /// This, with the aspect ratio of the learned grid preserved or not, where the library knows both.
    pub fn preserving(self, preserving: bool) -> Self {
        match (self, preserving) {
            (Resampling::Bicubic | Resampling::SquareBicubic, true) => Resampling::SquareBicubic,
            (Resampling::Bicubic | Resampling::SquareBicubic, false) => Resampling::Bicubic,
            (Resampling::Bilinear | Resampling::SquareBilinear, true) => Resampling::SquareBilinear,
            (Resampling::Bilinear | Resampling::SquareBilinear, false) => Resampling::Bilinear,
            (Resampling::PlainBicubic, _) => self,
        }
    }

    /// Whether the aspect ratio of the learned grid is preserved.
    pub fn is_preserving(self) -> bool {
        matches!(self, Resampling::SquareBicubic | Resampling::SquareBilinear)
    }
}

/// The terms of each output along an axis: (input, weight).
type Taps = Vec<Vec<(usize, f64)>>;

/// Resamples `positions: [prefix + rows * columns of the grid `from`, D]` to the grid `to`; the first `prefix` rows
/// stay.
///
/// # Panics
/// If `positions` has another length.
pub(crate) fn resample(
    positions: &[f32],
    prefix: usize,
    from: [usize; 2],
    to: [usize; 2],
    dim: usize,
    how: Resampling,
) -> Vec<f32> {
    assert_eq!(positions.len(), (prefix + from[0] * from[1]) * dim, "positions are [prefix + grid, D]");
    let (fixed, grid) = positions.split_at(prefix * dim);
    let whole = if how.is_preserving() { [to[0].max(to[1]); 2] } else { to };
    let [rows, columns] = [0, 1].map(|axis| {
        let mut taps = taps(from[axis], whole[axis], how);
        taps.truncate(to[axis]);
        taps
    });
    // Along the columns, then along the rows, like PyTorch.
    let mut wide = vec![0f64; from[0] * to[1] * dim];
    for (row, out) in grid.chunks_exact(from[1] * dim).zip(wide.chunks_exact_mut(to[1] * dim)) {
        for (taps, out) in columns.iter().zip(out.chunks_exact_mut(dim)) {
            for &(column, weight) in taps {
                let source = &row[column * dim..][..dim];
                out.iter_mut().zip(source).for_each(|(o, s)| *o += weight * f64::from(*s));
            }
        }
    }
    let mut resampled = fixed.to_vec();
    for taps in &rows {
        let mut out = vec![0f64; to[1] * dim];
        for &(row, weight) in taps {
            let source = &wide[row * to[1] * dim..][..to[1] * dim];
            out.iter_mut().zip(source).for_each(|(o, s)| *o += weight * s);
        }
        resampled.extend(out.into_iter().map(|v| v as f32));
    }
    resampled
}

/// The taps for resampling an axis from `from` to `to` positions, corners not aligned.
fn taps(from: usize, to: usize, how: Resampling) -> Taps {
    let scale = from as f64 / to as f64;
    let outputs = (0..to).map(|i| match how {
        Resampling::Bicubic | Resampling::SquareBicubic => {
            antialiased(from, scale, i, 2.0, |x| cubic(x, -0.5))
        }
        Resampling::Bilinear | Resampling::SquareBilinear => {
            antialiased(from, scale, i, 1.0, |x| (1.0 - x.abs()).max(0.0))
        }
        Resampling::PlainBicubic => {
            let place = scale * (i as f64 + 0.5) - 0.5;
            let before = place.floor();
            let tap = |k: i32| {
                let at = before + f64::from(k);
                (at.clamp(0.0, (from - 1) as f64) as usize, cubic(place - at, -0.75))
            };
            (-1..=2).map(tap).collect()
        }
    });
    outputs.collect()
}

/// The taps of output `i` along an axis of `from` inputs with a kernel that reaches `reach` inputs to either side, or
/// `reach` outputs when shrinking by `scale`.
fn antialiased(
    from: usize,
    scale: f64,
    i: usize,
    reach: f64,
    kernel: impl Fn(f64) -> f64,
) -> Vec<(usize, f64)> {
    let widened = scale.max(1.0);
    let (centre, support) = (scale * (i as f64 + 0.5), reach * widened);
    let first = (centre - support + 0.5).max(0.0) as usize;
    let last = ((centre + support + 0.5) as usize).min(from);
    let weight = |j: usize| kernel((j as f64 + 0.5 - centre) / widened);
    let sum: f64 = (first..last).map(weight).sum();
    (first..last).map(|j| (j, weight(j) / sum)).collect()
}

/// The cubic convolution kernel of parameter `a` (Keys, 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_grid_and_a_constant_stay() {
        let positions: Vec<f32> = (0..(2 + 12) * 3).map(|v| (v as f32).sin()).collect();
        for how in [Resampling::Bicubic, Resampling::PlainBicubic, Resampling::Bilinear] {
            let same = resample(&positions, 2, [3, 4], [3, 4], 3, how);
            let far = positions.iter().zip(&same).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-6, "{how:?}: {far}");
            let constant = resample(&[0.5; 12], 0, [3, 4], [7, 2], 1, how);
            assert_eq!(constant.len(), 14);
            assert!(constant.iter().all(|v| (v - 0.5).abs() < 1e-6), "{how:?}: {constant:?}");
        }
    }
}
