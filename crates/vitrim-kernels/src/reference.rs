//! Slow, direct implementations of every kernel, in f64, for tests here and in the crates that depend on this one.

use vitrim_random::SplitMix64;

use crate::{Activation, ChannelPairs};

/// Pseudo-random values in -1..1, a pure function of `seed` (SplitMix64).
pub fn values(seed: u64) -> impl FnMut() -> f32 {
    let mut random = SplitMix64::new(seed);
    move || random.symmetric()
}

/// Largest absolute difference of two slices of equal length.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `max |a - b| / max |b|`.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f32 {
    max_difference(a, b) / b.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()))
}

/// `x W^T + b`.
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let mut y = Vec::new();
    for row in x.chunks_exact(inputs) {
        for o in 0..outputs {
            let w = &weight[o * inputs..(o + 1) * inputs];
            let dot: f64 = row.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            y.push((dot + f64::from(bias[o])) as f32);
        }
    }
    y
}

/// `v` rounded to bf16, to nearest even.
pub fn bf16(v: f32) -> f32 {
    let (bits, half) = (v.to_bits(), 0x8000);
    let (below, rest) = (bits & 0xffff_0000, bits & 0xffff);
    let up = rest > half || rest == half && below & 0x1_0000 != 0;
    if v.is_finite() && up { f32::from_bits(below + 0x1_0000) } else { f32::from_bits(below) }
}

/// One output's weights as integers in -127..=127 and their scale. With `short_sums`, activations are in 0..=200, and
/// the products of the first and of the second pairs of every four words (16 weights) are added in an i16. The scale
/// is then so large that neither the positive nor the negative products of either can reach 32767, even if each of
/// the eight weights is rounded up by a half.
pub fn quantise(row: &[f32], short_sums: bool) -> (Vec<i8>, f32) {
    let mut scale = row.iter().map(|v| v.abs() / 127.0).fold(0.0, f32::max);
    if short_sums {
        for words in row.chunks(16) {
            for pair in [0, 1] {
                for sign in [1.0, -1.0] {
                    let of_pair = words.iter().enumerate().filter(|(i, _)| i / 2 % 2 == pair);
                    let sum: f32 = of_pair.map(|(_, v)| (sign * v).max(0.0)).sum();
                    let room = (32767 / 200 - 8 / 2) as f32;
                    scale = scale.max(sum / room);
                }
            }
        }
    }
    if scale == 0.0 {
        scale = 1.0;
    }
    (row.iter().map(|v| (v / scale).round_ties_even() as i8).collect(), scale)
}

/// Row-wise LayerNorm.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let dim = weight.len();
    let mut y = Vec::new();
    for row in x.chunks_exact(dim) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / dim as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / dim as f64;
        for i in 0..dim {
            let normal = (f64::from(row[i]) - mean) / (variance + f64::from(eps)).sqrt();
            y.push((normal * f64::from(weight[i]) + f64::from(bias[i])) as f32);
        }
    }
    y
}

/// The gradients of [`layer_norm`] with respect to `x`, `weight` and bias, by the normalised row's Jacobian
/// `(delta_ij - 1/D - v_i v_j / D) / sqrt(var + eps)`.
pub fn layer_norm_backward(
    x: &[f32],
    gradient: &[f32],
    weight: &[f32],
    eps: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let dim = weight.len();
    let d = dim as f64;
    let (mut dx, mut dw, mut db) = (Vec::new(), vec![0.0; dim], vec![0.0; dim]);
    for (row, gradient) in x.chunks_exact(dim).zip(gradient.chunks_exact(dim)) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / d;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / d;
        let deviation = (variance + f64::from(eps)).sqrt();
        let v: Vec<f64> = row.iter().map(|x| (f64::from(*x) - mean) / deviation).collect();
        let g: Vec<f64> = gradient.iter().map(|g| f64::from(*g)).collect();
        for j in 0..dim {
            let of = |i: usize| (f64::from(u8::from(i == j)) - 1.0 / d - v[i] * v[j] / d) / deviation;
            dx.push((0..dim).map(|i| g[i] * f64::from(weight[i]) * of(i)).sum::<f64>() as f32);
            dw[j] += g[j] * v[j];
            db[j] += g[j];
        }
    }
    let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
    (dx, narrow(dw), narrow(db))
}

/// `Phi(x)` by a series of positive terms.
fn cumulative_normal(x: f64) -> f64 {
    let x = x / std::f64::consts::SQRT_2;
    if x.abs() > 6.0 {
        return 0.5 * (1.0 + x.signum());
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 * (1.0 + sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt())
}

/// `x Phi(x)`.
pub fn gelu(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| f64::from(*x)).map(|x| (x * cumulative_normal(x)) as f32).collect()
}

/// The activation of each value.
pub fn activation(activation: Activation, x: &[f32]) -> Vec<f32> {
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let of = |v: f64| match activation {
        Activation::Gelu => v * cumulative_normal(v),
        Activation::GeluTanh => {
            0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v.powi(3))).tanh())
        }
        Activation::QuickGelu => v * sigmoid(1.702 * v),
        Activation::Silu => v * sigmoid(v),
    };
    x.iter().map(|v| of(f64::from(*v)) as f32).collect()
}

/// Row-wise RMSNorm, `x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let dim = weight.len();
    let row = |row: &[f32]| {
        let squares = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / dim as f64;
        let scale = (squares + f64::from(eps)).sqrt().recip();
        let scaled = row.iter().zip(weight).map(|(v, w)| (f64::from(*v) * scale * f64::from(*w)) as f32);
        scaled.collect::<Vec<_>>()
    };
    x.chunks_exact(dim).flat_map(row).collect()
}

/// `Phi(x) + x phi(x)`, the derivative of [`gelu`].
pub fn gelu_slope(x: &[f32]) -> Vec<f32> {
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    x.iter().map(|x| f64::from(*x)).map(|x| (cumulative_normal(x) + x * density(x)) as f32).collect()
}

/// Gated rows `x: [rows, width]`: the activation of the first half times the second, `[rows, width / 2]`.
pub fn gated(function: Activation, x: &[f32], width: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let (gate, up) = row.split_at(width / 2);
        activation(function, gate).iter().zip(up).map(|(g, u)| g * u).collect::<Vec<_>>()
    };
    x.chunks_exact(width).flat_map(row).collect()
}

/// Each head of `heads: [n, d]` rotated by `angles: [d / 2]`.
pub fn rotate(heads: &[f32], angles: &[f32], pairs: ChannelPairs) -> Vec<f32> {
    let (half, mut y) = (angles.len(), heads.to_vec());
    for (x, y) in heads.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
        for (i, angle) in angles.iter().enumerate() {
            let (a, b) = match pairs {
                ChannelPairs::Halves => (i, i + half),
                ChannelPairs::Neighbours => (2 * i, 2 * i + 1),
            };
            let (sin, cos) = f64::from(*angle).sin_cos();
            y[a] = (f64::from(x[a]) * cos - f64::from(x[b]) * sin) as f32;
            y[b] = (f64::from(x[b]) * cos + f64::from(x[a]) * sin) as f32;
        }
    }
    y
}

/// Softmax over the slice.
pub fn softmax(x: &[f32]) -> Vec<f32> {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let exp: Vec<f64> = x.iter().map(|v| f64::from(v - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| (e / sum) as f32).collect()
}

/// The gradient of [`softmax`], which gave `y`, by its Jacobian `y_i (delta_ij - y_j)`.
pub fn softmax_backward(y: &[f32], gradient: &[f32]) -> Vec<f32> {
    let jacobian = |i: usize, j: usize| f64::from(y[i]) * (f64::from(u8::from(i == j)) - f64::from(y[j]));
    let of = |j: usize| (0..y.len()).map(|i| f64::from(gradient[i]) * jacobian(i, j)).sum::<f64>() as f32;
    (0..y.len()).map(of).collect()
}

/// Multi-head self-attention of one image: `qkv: [n, 3, heads, d]`, `alive: [n]` (dead tokens are not keys). Returns
/// the output `[n, heads * d]` and the probabilities `[heads, n, n]`.
pub fn attention(qkv: &[f32], alive: &[bool], heads: usize) -> (Vec<f32>, Vec<f32>) {
    let bias: Vec<f32> = alive.iter().map(|alive| if *alive { 0.0 } else { f32::NEG_INFINITY }).collect();
    biased_attention(qkv, &bias, heads)
}

/// [`attention`] with `bias: [n]` added to every query's scores.
pub fn biased_attention(qkv: &[f32], bias: &[f32], heads: usize) -> (Vec<f32>, Vec<f32>) {
    let n = bias.len();
    let dim = qkv.len() / n.max(1) / 3;
    let d = dim / heads;
    let at = |t: usize, part: usize, h: usize| &qkv[t * 3 * dim + part * dim + h * d..][..d];
    let mut out = vec![0.0; n * dim];
    let mut probabilities = vec![0.0; heads * n * n];
    for h in 0..heads {
        for q in 0..n {
            let scores: Vec<f32> = (0..n)
                .map(|k| {
                    let dot: f64 =
                        at(q, 0, h).iter().zip(at(k, 1, h)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    (dot / (d as f64).sqrt()) as f32 + bias[k]
                })
                .collect();
            let p = softmax(&scores);
            for i in 0..d {
                let sum: f64 = (0..n).map(|k| f64::from(p[k]) * f64::from(at(k, 2, h)[i])).sum();
                out[q * dim + h * d + i] = sum as f32;
            }
            probabilities[(h * n + q) * n..][..n].copy_from_slice(&p);
        }
    }
    (out, probabilities)
}

/// The gradient of [`attention`] of one image with respect to `qkv: [n, 3, heads, d]`, for the gradient
/// `gradient: [n, heads * d]` with respect to its output: query by query, by [`softmax_backward`].
pub fn attention_backward(qkv: &[f32], gradient: &[f32], n: usize, heads: usize) -> Vec<f32> {
    let dim = gradient.len() / n.max(1);
    let d = dim / heads;
    let (_, probabilities) = attention(qkv, &vec![true; n], heads);
    let at = |t: usize, part: usize, h: usize| t * 3 * dim + part * dim + h * d;
    let scale = 1.0 / (d as f64).sqrt();
    let mut into = vec![0.0; qkv.len()];
    for h in 0..heads {
        for q in 0..n {
            let out = &gradient[q * dim + h * d..][..d];
            let p = &probabilities[(h * n + q) * n..][..n];
            let value = |k: usize| &qkv[at(k, 2, h)..][..d];
            let dot = |k: usize| {
                out.iter().zip(value(k)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
            };
            let dp: Vec<f32> = (0..n).map(dot).collect();
            for (k, ds) in softmax_backward(p, &dp).into_iter().enumerate() {
                let ds = f64::from(ds) * scale;
                for i in 0..d {
                    into[at(q, 0, h) + i] += ds * f64::from(qkv[at(k, 1, h) + i]);
                    into[at(k, 1, h) + i] += ds * f64::from(qkv[at(q, 0, h) + i]);
                    into[at(k, 2, h) + i] += f64::from(p[k]) * f64::from(out[i]);
                }
            }
        }
    }
    into.into_iter().map(|v| v as f32).collect()
}
