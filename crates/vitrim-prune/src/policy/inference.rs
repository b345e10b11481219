//! The actor's forward pass over a packed view, without an ML framework.

use rayon::prelude::*;
use vitrim_kernels::{LayerNorm, Linear, gelu, rows_per_task, tanh};
use vitrim_vit::View;

use crate::policy::actor::{Activation, Observation, PerceptronSpec, PerceptronWeights};
use crate::policy::pairing::Pairing;

/// Epsilon of the parameter-free LayerNorm on the actor's inputs.
pub const INPUT_NORM_EPS: f32 = 1e-5;

/// A packed perceptron.
pub struct Perceptron {
    spec: PerceptronSpec,
    embedding: Linear,
    context: Option<Linear>,
    weights: PerceptronWeights,
    /// `[scalars, H]`
    scalar: Vec<f32>,
    layers: Vec<Linear>,
    norm: Option<LayerNorm>,
}

impl Perceptron {
    /// Packs `weights` for `spec`.
    pub fn new(spec: &PerceptronSpec, weights: &PerceptronWeights) -> Self {
        let h = spec.hidden[0];
        let layers = spec.layer_widths().into_iter().zip(&weights.layers);
        Perceptron {
            embedding: Linear::new(&weights.embedding, None, h, spec.dim),
            context: spec.context.then(|| Linear::new(&weights.context, None, h, spec.dim)),
            layers: layers.map(|((i, o), (weight, bias))| Linear::new(weight, Some(bias), o, i)).collect(),
            scalar: (0..spec.scalars)
                .flat_map(|s| weights.scalar.iter().skip(s).step_by(spec.scalars).copied())
                .collect(),
            norm: spec.layer_norm.then(|| LayerNorm::plain(INPUT_NORM_EPS)),
            weights: weights.clone(),
            spec: spec.clone(),
        }
    }

    /// The geometry.
    pub fn spec(&self) -> &PerceptronSpec {
        &self.spec
    }

    /// Outputs `[A, outputs]` for the agents `rows: [A]` of `view`, with `scalars: [T, spec.scalars]` of all its tokens.
    pub fn forward(&self, stage: usize, view: &View<'_>, rows: &[usize], scalars: &[f32]) -> Vec<f32> {
        let h = self.spec.hidden[0];
        let total = rows.len();
        let image_bias = self.image_bias(stage, view);
        let mut image_of = vec![0; view.total()];
        for b in 0..view.batch() {
            image_of[view.rows(b)].fill(b);
        }
        // Below about 5 us of work, handing it to another thread costs more than it saves.
        let alone = total as u64 * self.spec.macs_per_agent() < 1 << 20;
        let per_task = if alone { total.max(1) } else { rows_per_task(total) };
        let mut outputs = vec![0.0; total * self.spec.outputs];
        let score = |buffers: &mut [Vec<f32>; 3], (task, out): (usize, &mut [f32])| {
            let rows = &rows[task * per_task..][..out.len() / self.spec.outputs];
            let shared = |row: usize| &image_bias[image_of[row] * h..][..h];
            self.score(view, rows, shared, scalars, buffers, out);
        };
        let chunks = per_task * self.spec.outputs;
        if alone {
            outputs.chunks_mut(chunks).enumerate().for_each(|chunk| score(&mut Default::default(), chunk));
        } else {
            outputs.par_chunks_mut(chunks).enumerate().for_each_init(Default::default, score);
        }
        outputs
    }

    /// Outputs of the agents `rows: [A]`, into `out: [A, outputs]`; `shared(row)` is what a row has in common with its
    /// image, `[H]`.
    fn score<'a>(
        &self,
        view: &View<'_>,
        rows: &[usize],
        shared: impl Fn(usize) -> &'a [f32],
        scalars: &[f32],
        [tokens, x, y]: &mut [Vec<f32>; 3],
        out: &mut [f32],
    ) {
        let (d, h, n) = (self.spec.dim, self.spec.hidden[0], self.spec.scalars);
        let count = rows.len();
        tokens.resize(count * d, 0.0);
        for (token, &row) in tokens.chunks_exact_mut(d).zip(rows) {
            match &self.norm {
                Some(norm) => norm.forward(view.token(row), token, d),
                None => token.copy_from_slice(view.token(row)),
            }
        }
        x.resize(count * h, 0.0);
        self.embedding.forward(tokens, x);
        for (x, &row) in x.chunks_exact_mut(h).zip(rows) {
            x.iter_mut().zip(shared(row)).for_each(|(x, b)| *x += b);
            if let (Some(grid), true) = (view.origins[row].grid(), self.spec.positions > 0) {
                let position = &self.weights.position[grid * h..][..h];
                x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
            }
            for (value, weights) in scalars[row * n..(row + 1) * n].iter().zip(self.scalar.chunks_exact(h)) {
                x.iter_mut().zip(weights).for_each(|(x, w)| *x += w * value);
            }
        }
        let (last, hidden) = self.layers.split_last().expect("a perceptron has a head");
        self.activate(x);
        for layer in hidden {
            y.resize(count * layer.outputs(), 0.0);
            layer.forward(x, y);
            self.activate(y);
            std::mem::swap(x, y);
        }
        last.forward(x, out);
        for (out, &row) in out.chunks_exact_mut(self.spec.outputs).zip(rows) {
            let scalars = &scalars[row * n..(row + 1) * n];
            for (o, weights) in out.iter_mut().zip(self.weights.shortcut.chunks_exact(n.max(1))) {
                *o += weights.iter().zip(scalars).map(|(w, s)| w * s).sum::<f32>();
            }
        }
    }

    /// What all agents of an image share, `[B, H]`: bias, stage and context.
    fn image_bias(&self, stage: usize, view: &View<'_>) -> Vec<f32> {
        let (d, h) = (self.spec.dim, self.spec.hidden[0]);
        let mut shared = self.weights.bias.clone();
        if self.spec.stages > 0 {
            let table = &self.weights.stage[stage * h..][..h];
            shared.iter_mut().zip(table).for_each(|(s, t)| *s += t);
        }
        let mut bias = shared.repeat(view.batch());
        if let Some(layer) = &self.context {
            let mut context = contexts(view);
            if let Some(norm) = &self.norm {
                let raw = context.clone();
                norm.forward(&raw, &mut context, d);
            }
            layer.forward_add(&context, &mut bias);
        }
        bias
    }

    fn activate(&self, x: &mut [f32]) {
        match self.spec.activation {
            Activation::Tanh => tanh(x),
            Activation::Gelu => gelu(x),
        }
    }
}

/// The global state's image-wide part, `[B, D]`: the class token's embedding; without prefix tokens,
/// the mean of the image's tokens.
pub fn contexts(view: &View<'_>) -> Vec<f32> {
    let mut contexts = vec![0.0; view.batch() * view.dim];
    for (b, context) in contexts.chunks_exact_mut(view.dim).enumerate() {
        if view.prefix > 0 {
            context.copy_from_slice(view.token(view.offsets[b]));
        } else {
            let rows = view.rows(b);
            let scale = 1.0 / rows.len().max(1) as f32;
            for t in rows {
                context.iter_mut().zip(view.token(t)).for_each(|(c, x)| *c += scale * x);
            }
        }
    }
    contexts
}

/// The actor's scalar inputs, `[T, n]`, in the order of [`Observation`]'s fields; logarithms are clipped to -4..4.
/// `pairing` is the stage's, where leaving means merging.
pub fn scalars(observation: &Observation, view: &View<'_>, pairing: Option<&Pairing>) -> Vec<f32> {
    let width = observation.scalars();
    let mut values = vec![0.0; view.total() * width];
    if width == 0 {
        return values;
    }
    let mut rest = &mut values[..];
    let mut images = Vec::with_capacity(view.batch());
    for b in 0..view.batch() {
        let (own, after) = rest.split_at_mut(view.rows(b).len() * width);
        images.push((view.rows(b), own));
        rest = after;
    }
    images.into_par_iter().for_each(|(rows, values)| {
        let n = rows.len() as f32;
        let attention_of =
            |row: usize| view.cls_attention.map_or(0.0, |attention| attention_scalar(attention[row], n));
        for (row, values) in rows.zip(values.chunks_exact_mut(width)) {
            if observation.cls_attention {
                values[0] = attention_of(row);
            }
            let Some(pairing) = pairing.filter(|pairing| pairing.may_leave(row)) else { continue };
            let mut place = observation.first_of_pair();
            let mut put = |value: f32| {
                values[place] = value;
                place += 1;
            };
            if observation.pair {
                put(unlikeness(pairing.similarity[row], 3.0));
                put(view.sizes[row].ln());
                put(view.sizes[pairing.partner[row]].ln());
            }
            if observation.pair_tokens {
                put(unlikeness(pairing.token_similarity[row], 1.0));
                put(attention_of(pairing.partner[row]));
            }
        }
    });
    values
}

/// `ln(1 - cosine) + shift`, clipped.
fn unlikeness(cosine: f32, shift: f32) -> f32 {
    ((1.0 - cosine).max(1e-9).ln() + shift).clamp(-4.0, 4.0)
}

/// `ln(attention * T_b)`, clipped.
fn attention_scalar(attention: f32, tokens: f32) -> f32 {
    (attention * tokens).max(1e-9).ln().clamp(-4.0, 4.0)
}

impl Observation {
    /// Scalar inputs an agent.
    pub fn scalars(&self) -> usize {
        self.first_of_pair() + if self.pair { 3 } else { 0 } + if self.pair_tokens { 2 } else { 0 }
    }

    /// Place of the first scalar about the pair: how unlike the two are.
    pub fn first_of_pair(&self) -> usize {
        usize::from(self.cls_attention)
    }
}
