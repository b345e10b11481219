//! Pooling by attention: a learned query attends to the final tokens.
//!
//! The query is the same for every image. A head's score of token x is `q_h (W_k x + b_k)`, and the softmax does not see
//! the constant `q_h b_k`: the query is multiplied into `W_k` once, and a token costs D multiplications per head instead
//! of 2 D^2 for its key and value. The values are linear, too: the weighted mean of the values is the value of the
//! weighted mean of the tokens.

use rayon::prelude::*;
use vitrim_kernels::{InstructionSet, LayerNorm, Linear};

use crate::error::Result;
use crate::packed::PackedBatch;
use crate::spec::{AttentionPool, MlpSpec, VitSpec};
use crate::tensors::Tensors;

/// The packed weights of an [`AttentionPool`].
pub(super) struct Probe {
    pool: AttentionPool,
    dim: usize,
    /// Scores of a token, D to heads, scale included.
    scores: Linear,
    /// Values of each head, D to D / heads.
    values: Vec<Linear>,
    proj: Linear,
    mlp: Option<(LayerNorm, Linear, Linear, MlpSpec)>,
}

impl Probe {
    /// Reads the weights of `pool`, a part of `spec`, from `tensors`.
    pub fn read(pool: AttentionPool, spec: &VitSpec, tensors: &Tensors) -> Result<Self> {
        let (d, head_dim) = (spec.dim, spec.dim / pool.heads);
        let get = |name: &str, shape: &[usize]| tensors.get(&format!("attn_pool.{name}"), shape);
        let bias = |there: bool, name: &str, width: usize| there.then(|| get(name, &[width])).transpose();
        let layer = |name: &str, outputs: usize, inputs: usize, biased: bool| -> Result<Linear> {
            let weight = get(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = bias(biased, &format!("{name}.bias"), outputs)?;
            Ok(Linear::new(&weight, bias.as_deref(), outputs, inputs))
        };
        let latent = get("latent", &[1, 1, d])?;
        let mut query = latent.to_vec();
        if pool.query {
            layer("q", d, d, pool.bias)?.forward(&latent, &mut query);
        }
        let (kv, kv_bias) = (get("kv.weight", &[2 * d, d])?, bias(pool.bias, "kv.bias", 2 * d)?);
        let (keys, values) = kv.split_at(d * d);
        let scale = (head_dim as f32).sqrt().recip();
        let score = |head: usize| {
            let rows = head * head_dim..(head + 1) * head_dim;
            let keys = keys[rows.start * d..rows.end * d].chunks_exact(d);
            let mut score = vec![0.0; d];
            for (q, key) in query[rows].iter().zip(keys) {
                score.iter_mut().zip(key).for_each(|(score, key)| *score += q * scale * key);
            }
            score
        };
        let scores: Vec<f32> = (0..pool.heads).flat_map(score).collect();
        let values = values.chunks_exact(head_dim * d).enumerate().map(|(head, weight)| {
            let bias = kv_bias.as_ref().map(|bias| &bias[d + head * head_dim..][..head_dim]);
            Linear::new(weight, bias, head_dim, d)
        });
        let mlp = |mlp: MlpSpec| -> Result<_> {
            let norm_bias = bias(!spec.norm.rms, "norm.bias", d)?;
            let norm = spec.norm.with(&get("norm.weight", &[d])?, norm_bias.as_deref());
            let fc1 = layer("mlp.fc1", mlp.first(), d, mlp.bias)?;
            Ok((norm, fc1, layer("mlp.fc2", d, mlp.hidden, mlp.bias)?, mlp))
        };
        Ok(Probe {
            pool,
            dim: d,
            scores: Linear::new(&scores, None, pool.heads, d),
            values: values.collect(),
            proj: layer("proj", d, d, true)?,
            mlp: pool.mlp.map(mlp).transpose()?,
        })
    }

    /// The pooled features `[B, D]` of `tokens: [T, D]`, the final tokens of `packed`, whose images start with `prefix`
    /// prefix tokens.
    pub fn pool(&self, tokens: &[f32], packed: &PackedBatch, prefix: usize) -> Vec<f32> {
        let (d, heads, isa) = (self.dim, self.pool.heads, InstructionSet::current());
        let skipped = if self.pool.prefix { 0 } else { prefix };
        let head_dim = d / heads;
        let mut attended = vec![0.0; packed.batch() * d];
        attended.par_chunks_exact_mut(d).zip(packed.offsets.par_windows(2)).for_each(|(attended, image)| {
            let rows = image[0] + skipped..image[1];
            let tokens = &tokens[rows.start * d..rows.end * d];
            let mut scores = vec![0.0; rows.len() * heads];
            self.scores.forward(tokens, &mut scores);
            let (mut weights, mut mean) = (vec![0.0; rows.len()], vec![0.0; d]);
            for (head, values) in self.values.iter().enumerate() {
                let of_head = scores[head..].iter().step_by(heads).zip(&packed.sizes[rows.clone()]);
                weights
                    .iter_mut()
                    .zip(of_head)
                    .for_each(|(weight, (score, size))| *weight = score + size.ln());
                isa.softmax(&mut weights, rows.len());
                mean.fill(0.0);
                for (weight, token) in weights.iter().zip(tokens.chunks_exact(d)) {
                    mean.iter_mut().zip(token).for_each(|(mean, t)| *mean += weight * t);
                }
                values.forward(&mean, &mut attended[head * head_dim..(head + 1) * head_dim]);
            }
        });
        let mut pooled = vec![0.0; attended.len()];
        self.proj.forward(&attended, &mut pooled);
        if let Some((norm, fc1, fc2, mlp)) = &self.mlp {
            let mut normed = pooled.clone();
            norm.forward(&pooled, &mut normed, d);
            let mut hidden = vec![0.0; packed.batch() * mlp.first()];
            fc1.forward(&normed, &mut hidden);
            let activation = mlp.activation.function();
            isa.activate(activation, &mut hidden);
            fc2.forward_add(&hidden, &mut pooled);
        }
        pooled
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        let mlp = self.mlp.as_ref().map_or(0, |(norm, fc1, fc2, _)| norm.bytes() + fc1.bytes() + fc2.bytes());
        self.scores.bytes() + self.values.iter().map(Linear::bytes).sum::<usize>() + self.proj.bytes() + mlp
    }
}
