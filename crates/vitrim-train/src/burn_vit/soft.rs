//! Gradual merging with a gradient for the metric by which tokens are matched (DTEM: Lee and Hong, NeurIPS 2024; after
//! OpenToMe's code, `opentome/timm/dtem.py`).
//!
//! No token is removed. In every block, r rounds of a softmax over the best pairs say how much of each token of one half joins
//! each token of the other half; what does not join stays where it is, as a token of a smaller size. The r smallest tokens
//! then match no more. In the limit of low temperatures this is bipartite soft matching. The halves alternate from the first
//! patch token on, in the executor from the first token of all: with an odd number of prefix tokens they are exchanged.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use vitrim_prune::policy::{METRIC_NORM_EPS, MetricHeads};
use vitrim_vit::{Site, VitSpec};

use super::{BurnVit, TokenLayout, numbers, pixel_tensor};
use crate::device::host;
use crate::linear::Linear;

/// The layers of a metric under training, one for each block in which merging changes the answer.
#[derive(Module, Debug)]
pub struct Metric {
    layers: Vec<Linear>,
}

/// How gradual the matching is.
#[derive(Clone, Copy, Debug)]
pub struct Softness {
    /// Divides the cosines.
    pub cosine_temperature: f64,
    /// Temperature of the softmax in each round.
    pub round_temperature: f64,
    /// How many partners each token considers: the most similar ones.
    pub candidates: usize,
}

/// The tokens of B images that still match, and the size of all.
struct Merging {
    batch: usize,
    /// The rows (of B * N) that still match, image by image, equally many of each.
    rows: Vec<Vec<usize>>,
    /// `[B * N]`.
    sizes: Tensor<1>,
}

impl Metric {
    /// The layers `heads` on `device`.
    pub fn new(heads: &MetricHeads, device: &Device) -> Self {
        let layer = |(weight, bias): &(Vec<f32>, Vec<f32>)| Linear {
            weight: Param::from_tensor(Tensor::from_data(
                TensorData::new(weight.clone(), [heads.width, heads.dim]),
                device,
            )),
            bias: Some(Param::from_tensor(Tensor::from_data(
                TensorData::new(bias.clone(), [heads.width]),
                device,
            ))),
        };
        Metric { layers: heads.layers.iter().map(layer).collect() }
    }

    /// Weight `[M, D]` and bias `[M]` of each layer.
    pub fn weights(&self) -> Vec<(Vec<f32>, Vec<f32>)> {
        let bias = |layer: &Linear| numbers(layer.bias.as_ref().expect("has a bias"));
        self.layers.iter().map(|layer| (numbers(&layer.weight), bias(layer))).collect()
    }

    /// Unit vectors `[A, M]` of the tokens `x: [A, D]` at the input of block `block`.
    fn vectors(&self, block: usize, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let deviation = (centred.clone().square().mean_dim(1) + METRIC_NORM_EPS).sqrt();
        let vectors = self.layers[block].forward(centred / deviation);
        // A root has no finite gradient at 0.
        let lengths = vectors.clone().square().sum_dim(1).clamp_min(f32::MIN_POSITIVE).sqrt();
        vectors / lengths
    }
}

impl BurnVit {
    /// The metric from which training starts, whose vectors have `parts` times the width of a head: the mean keys of all
    /// heads, or of each of `parts` groups of heads, before any norm or rotation. With one part this is ToMe's metric, if keys
    /// have neither, and blocks have LayerNorms.
    ///
    /// # Panics
    /// If `parts` lies outside 1 to the number of heads.
    pub fn key_metric(&self, parts: usize) -> MetricHeads {
        let (dim, heads) = (self.spec.dim, self.spec.attention.heads);
        assert!((1..=heads).contains(&parts));
        let head_dim = dim / heads;
        let width = parts * head_dim;
        let layer = |block: &super::Block| {
            let (weight, scale) = (numbers(&block.attn.qkv.weight), numbers(&block.norm1.weight));
            let shift = block.norm1.bias.as_ref().map_or_else(|| vec![0.0; dim], numbers);
            let key_bias = block.attn.qkv.bias.as_ref().map(numbers);
            let (mut mean, mut bias) = (vec![0.0; width * dim], vec![0.0; width]);
            for head in 0..heads {
                let share = 1.0 / (heads / parts + usize::from(head % parts < heads % parts)) as f32;
                for channel in 0..head_dim {
                    let key = dim + head * head_dim + channel;
                    let to = (head % parts) * head_dim + channel;
                    let row = &weight[key * dim..][..dim];
                    let of_tokens = row.iter().zip(&scale).map(|(weight, scale)| weight * scale);
                    mean[to * dim..][..dim].iter_mut().zip(of_tokens).for_each(|(sum, v)| *sum += share * v);
                    let fixed: f32 = row.iter().zip(&shift).map(|(weight, shift)| weight * shift).sum();
                    bias[to] += share * (fixed + key_bias.as_ref().map_or(0.0, |bias| bias[key]));
                }
            }
            (mean, bias)
        };
        MetricHeads { dim, width, layers: self.blocks.iter().map(layer).collect() }
    }

    /// Answers for `pixels: [B, 3, H, W]`, in which about `removed` tokens of each image merge gradually in every block that has
    /// a layer of `metric`. Gradients flow to `metric`.
    pub fn forward_softly(
        &self,
        pixels: &[f32],
        batch: usize,
        metric: &Metric,
        removed: usize,
        softness: Softness,
    ) -> Tensor<2> {
        let (spec, device) = (&self.spec, self.device());
        let mut x = self.embed(pixel_tensor(pixels, batch, spec, &device));
        let mut merging: Option<Merging> = None;
        for (l, block) in self.blocks.iter().enumerate() {
            let inputs = x.clone().detach();
            x = block.attend(x, &layout(spec, batch, &merging)).0;
            if removed > 0 && l < metric.layers.len() {
                let mut state = merging.take().unwrap_or_else(|| Merging::new(spec, batch, &device));
                x = state.merge(x, inputs, |tokens| metric.vectors(l, tokens), removed, softness);
                merging = Some(state);
            }
            x = block.transform(x);
        }
        let pooled = self.pool(x, &layout(spec, batch, &merging));
        if self.head.is_some() { self.logits(pooled) } else { self.embedding(&pooled) }
    }
}

/// The number of blocks of a backbone of geometry `spec`, from the first, in which merging changes the answer.
pub fn merging_blocks(spec: &VitSpec) -> usize {
    let changes = |block: &usize| Site::after_attention_of(*block) < Site::of_answer(spec);
    (0..spec.depth).take_while(changes).count()
}

fn layout(spec: &VitSpec, batch: usize, merging: &Option<Merging>) -> TokenLayout {
    match merging {
        None => TokenLayout::dense(spec, batch),
        Some(merging) => TokenLayout::weighted(spec, batch, merging.sizes.clone()),
    }
}

impl Merging {
    /// `batch` images of which all patch tokens match.
    fn new(spec: &VitSpec, batch: usize, device: &Device) -> Self {
        let (n, prefix) = (spec.num_tokens(), spec.num_prefix_tokens());
        Merging {
            batch,
            rows: (0..batch).map(|b| (b * n + prefix..(b + 1) * n).collect()).collect(),
            sizes: Tensor::ones([batch * n], device),
        }
    }

    /// Merges about `removed` of the tokens `x: [B * N, D]`, by the unit vectors of their block's `inputs: [B * N, D]`.
    fn merge(
        &mut self,
        x: Tensor<2>,
        inputs: Tensor<2>,
        vectors: impl Fn(Tensor<2>) -> Tensor<2>,
        removed: usize,
        softness: Softness,
    ) -> Tensor<2> {
        let (batch, device, d) = (self.batch, x.device(), x.dims()[1]);
        let removed = removed.min(self.rows[0].len() / 2);
        if removed == 0 {
            return x;
        }
        let half = |parity: usize| -> Vec<usize> {
            self.rows.iter().flat_map(|rows| rows.iter().skip(parity).step_by(2).copied()).collect()
        };
        let (from, to) = (half(0), half(1));
        let (na, nb) = (from.len() / batch, to.len() / batch);
        let (a, b) = (indices(&from, &device), indices(&to, &device));
        let of = |rows: &Tensor<1, Int>, n: usize| {
            let vectors = vectors(inputs.clone().select(0, rows.clone()));
            let width = vectors.dims()[1];
            vectors.reshape([batch, n, width])
        };
        let cosines = of(&a, na).matmul(of(&b, nb).swap_dims(1, 2)); // [B, na, nb]
        let joins = joining(cosines, removed, softness); // [B, na, nb]

        let (xa, xb) = (x.clone().select(0, a.clone()), x.clone().select(0, b.clone()));
        let (sa, sb) = (self.sizes.clone().select(0, a.clone()), self.sizes.clone().select(0, b.clone()));
        let mass = sa.clone().reshape([batch, na, 1]);
        let moved = mass.clone() * xa.reshape([batch, na, d]);
        let back = joins.clone().swap_dims(1, 2); // [B, nb, na]
        let gained = back.clone().matmul(mass).reshape([batch * nb]);
        let sum = sb.clone().unsqueeze_dim::<2>(1) * xb.clone() + back.matmul(moved).reshape([batch * nb, d]);
        let merged = sum / (sb + gained.clone()).unsqueeze_dim::<2>(1);
        let stays = joins.sum_dim(2).reshape([batch * na]).neg() + 1.0;
        // What stays is 0 to 1 up to rounding; the gradient is that of the unclamped value.
        let rounding = (stays.clone().clamp(0.0, 1.0) - stays.clone()).detach();
        let lost = sa * (stays + rounding).neg().add_scalar(1.0);

        let gained = self.sizes.clone().select_assign(0, b.clone(), gained, IndexingUpdateOp::Add);
        self.sizes = gained.select_assign(0, a, lost.neg(), IndexingUpdateOp::Add);
        self.forget_smallest(removed);
        x.select_assign(0, b, merged - xb, IndexingUpdateOp::Add)
    }

    /// The `removed` smallest tokens of each image match no more. The others are ordered by size, so that the next block splits
    /// them by other positions.
    fn forget_smallest(&mut self, removed: usize) {
        let sizes = host(self.sizes.clone());
        for rows in &mut self.rows {
            let (a, b): (Vec<_>, Vec<_>) = rows.iter().enumerate().partition(|(place, _)| place % 2 == 0);
            let mut all: Vec<usize> = a.into_iter().chain(b).map(|(_, row)| *row).collect();
            all.sort_by(|x, y| sizes[*y].total_cmp(&sizes[*x]));
            all.truncate(rows.len() - removed);
            *rows = all;
        }
    }
}

/// How much of each token of one half joins each token of the other half, `[B, na, nb]`, after `rounds` rounds: at most all of
/// it.
fn joining(cosines: Tensor<3>, rounds: usize, softness: Softness) -> Tensor<3> {
    let ([batch, na, nb], device) = (cosines.dims(), cosines.device());
    let candidates = softness.candidates.min(nb);
    let best = most_similar(&host(cosines.clone()), nb, candidates);
    let best = Tensor::<3, Int>::from_data(TensorData::new(best, [batch, na, candidates]), &device);
    let mut scores = cosines.clone().gather(2, best.clone()).div_scalar(softness.cosine_temperature); // [B, na, k]
    let mut taken = Tensor::<3>::zeros([batch, na, candidates], &device);
    for _ in 0..rounds {
        let flat = scores.clone().reshape([batch, na * candidates]).div_scalar(softness.round_temperature);
        let chosen = softmax(flat, 1).reshape([batch, na, candidates]);
        taken = taken + chosen.clone();
        let left = chosen.sum_dim(2).neg().add_scalar(1.0).clamp_min(f32::EPSILON);
        scores = scores + left.log();
    }
    let excess = (taken.clone().sum_dim(2).detach() - 1.0).clamp_min(0.0) + 1.0;
    Tensor::zeros([batch, na, nb], &device).scatter(2, best, taken / excess, IndexingUpdateOp::Add)
}

/// Places of the `count` largest values in each row of `cosines: [R, width]`, `[R, count]`.
fn most_similar(cosines: &[f32], width: usize, count: usize) -> Vec<i32> {
    let of_row = |row: &[f32]| {
        let mut places: Vec<usize> = (0..width).collect();
        places.sort_by(|x, y| row[*y].total_cmp(&row[*x]));
        places.into_iter().take(count).map(|place| place as i32).collect::<Vec<_>>()
    };
    cosines.chunks_exact(width).flat_map(of_row).collect()
}

fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
