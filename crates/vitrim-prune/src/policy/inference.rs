//! The actor's forward pass over the agents of an image, without an ML framework.

use std::borrow::Cow;

use vitrim_kernels::{InstructionSet, LayerNorm, Linear, tanh};
use vitrim_vit::{View, VitSpec};

use crate::policy::actor::{Nonlinearity, Observation, PerceptronSpec, PerceptronWeights};
use crate::policy::pairing::Roles;
use crate::policy::relative::{RELATIVE, Surroundings};

/// Epsilon of the parameter-free LayerNorm on the actor's inputs.
const INPUT_NORM_EPS: f32 = 1e-5;

/// A perceptron with packed weights.
pub(super) struct Perceptron {
    spec: PerceptronSpec,
    embedding: Option<Linear>,
    context: Option<Linear>,
    weights: PerceptronWeights,
    scalar: Option<Linear>,
    layers: Vec<Linear>,
    shortcut: Option<Linear>,
    norm: Option<LayerNorm>,
}

impl Perceptron {
    /// Packs `weights` for `spec`.
    pub fn new(spec: &PerceptronSpec, weights: &PerceptronWeights) -> Self {
        let h = spec.hidden[0];
        let layers = spec.layer_widths().into_iter().zip(&weights.layers);
        Perceptron {
            embedding: (spec.dim > 0).then(|| Linear::new(&weights.embedding, None, h, spec.dim)),
            context: spec.context.then(|| Linear::new(&weights.context, None, h, spec.dim)),
            layers: layers.map(|((i, o), (weight, bias))| Linear::new(weight, Some(bias), o, i)).collect(),
            scalar: (spec.scalars > 0).then(|| Linear::new(&weights.scalar, None, h, spec.scalars)),
            shortcut: (!weights.shortcut.is_empty())
                .then(|| Linear::new(&weights.shortcut, None, spec.outputs, spec.scalars)),
            norm: spec.layer_norm.then(|| LayerNorm::plain(INPUT_NORM_EPS)),
            weights: weights.clone(),
            spec: spec.clone(),
        }
    }

    /// The geometry.
    pub fn spec(&self) -> &PerceptronSpec {
        &self.spec
    }

    /// Outputs `[A, outputs]` for the agents `rows: [A]` of `view`, all of image `b`, with
    /// `scalars: [t, spec.scalars]` of all tokens of that image. The outputs are in `buffers`.
    pub(super) fn forward<'b>(
        &self,
        stage: usize,
        view: &View<'_>,
        b: usize,
        rows: &[usize],
        scalars: &[f32],
        buffers: &'b mut Buffers,
    ) -> &'b [f32] {
        let (d, h, n) = (self.spec.dim, self.spec.hidden[0], self.spec.scalars);
        let Buffers { tokens, shared, own_scalars, x, y } = buffers;
        self.shared(stage, view, b, tokens, shared);
        let count = rows.len();
        let first = view.rows(b).start;
        own_scalars.clear();
        own_scalars.extend(rows.iter().flat_map(|row| &scalars[(row - first) * n..][..n]));
        x.clear();
        rows.iter().for_each(|_| x.extend_from_slice(shared));
        if self.spec.positions > 0 {
            for (x, &row) in x.chunks_exact_mut(h).zip(rows) {
                let Some(grid) = view.origins[row].grid() else { continue };
                let position = &self.weights.position[grid * h..][..h];
                x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
            }
        }
        if let Some(embedding) = &self.embedding {
            tokens.resize(count * d, 0.0);
            for (token, &row) in tokens.chunks_exact_mut(d).zip(rows) {
                match &self.norm {
                    Some(norm) => norm.forward(view.token(row), token, d),
                    None => token.copy_from_slice(view.token(row)),
                }
            }
            embedding.forward_add(tokens, x);
        }
        if let Some(scalar) = &self.scalar {
            scalar.forward_add(own_scalars, x);
        }
        self.activate(x);
        let (last, hidden) = self.layers.split_last().expect("a perceptron has a head");
        for layer in hidden {
            y.resize(count * layer.outputs(), 0.0);
            layer.forward(x, y);
            self.activate(y);
            std::mem::swap(x, y);
        }
        y.resize(count * self.spec.outputs, 0.0);
        last.forward(x, y);
        if let Some(shortcut) = &self.shortcut {
            shortcut.forward_add(own_scalars, y);
        }
        y
    }

    /// Writes the input that all agents of image `b` share, `[H]`, into `shared`: bias, stage and context. `normed`
    /// is working space.
    fn shared(&self, stage: usize, view: &View<'_>, b: usize, normed: &mut Vec<f32>, shared: &mut Vec<f32>) {
        let (d, h) = (self.spec.dim, self.spec.hidden[0]);
        shared.clone_from(&self.weights.bias);
        if self.spec.stages > 0 {
            let table = &self.weights.stage[stage * h..][..h];
            shared.iter_mut().zip(table).for_each(|(s, t)| *s += t);
        }
        if let Some(layer) = &self.context {
            let context = context(view, b);
            let context = match &self.norm {
                Some(norm) => {
                    normed.resize(d, 0.0);
                    norm.forward(&context, normed, d);
                    normed
                }
                None => &context[..],
            };
            layer.forward_add(context, shared);
        }
    }

    fn activate(&self, x: &mut [f32]) {
        match self.spec.activation {
            Nonlinearity::Tanh => tanh(x),
            Nonlinearity::Gelu => InstructionSet::current().gelu(x),
        }
    }
}

/// Working space of a [`Perceptron`].
#[derive(Default)]
pub(super) struct Buffers {
    tokens: Vec<f32>,
    shared: Vec<f32>,
    own_scalars: Vec<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
}

/// The context of each image, `[B, D]`: the class token's embedding or, without prefix tokens, the mean of the
/// image's tokens.
pub fn contexts(view: &View<'_>) -> Vec<f32> {
    (0..view.batch()).flat_map(|b| context(view, b).into_owned()).collect()
}

/// The context of image `b`, `[D]`: its class token, or the mean of its tokens if it has none.
fn context<'v>(view: &View<'v>, b: usize) -> Cow<'v, [f32]> {
    let rows = view.rows(b);
    if view.prefix > 0 {
        return Cow::Borrowed(view.token(rows.start));
    }
    let scale = 1.0 / rows.len().max(1) as f32;
    let mut mean = vec![0.0; view.dim];
    for t in rows {
        mean.iter_mut().zip(view.token(t)).for_each(|(m, x)| *m += scale * x);
    }
    Cow::Owned(mean)
}

/// Writes the actor's scalar inputs for the tokens of image `b`, `[t, n]`, in the order of
/// [`Observation::scalar_names`], into `values`, which must be 0; logarithms are clipped to -4..4. `roles` are those of
/// the image, for `Departure::Merge`. `spec` is the backbone's geometry.
pub(super) fn scalars(
    observation: &Observation,
    spec: &VitSpec,
    view: &View<'_>,
    b: usize,
    roles: Option<&Roles<'_>>,
    values: &mut [f32],
) {
    let rows = view.rows(b);
    let (first, n) = (rows.start, rows.len() as f32);
    let attention_of =
        |row: usize| view.cls_attention.map_or(0.0, |attention| attention_scalar(attention[row], n));
    for (i, values) in values.chunks_exact_mut(observation.scalars().max(1)).enumerate() {
        if observation.cls_attention {
            values[0] = attention_of(first + i);
        }
        let Some(roles) = roles.filter(|roles| roles.may_leave(i)) else { continue };
        let mut place = observation.first_of_pair();
        let mut put = |value: f32| {
            values[place] = value;
            place += 1;
        };
        if observation.pair {
            put(unlikeness(roles.similarity[i], 3.0));
            put(view.sizes[first + i].ln());
            put(view.sizes[roles.partner[i]].ln());
        }
        if observation.pair_tokens {
            put(unlikeness(roles.token_similarity[i], 1.0));
            put(attention_of(roles.partner[i]));
        }
    }
    if let (Some(roles), true) = (roles, observation.relative) {
        let surroundings = Surroundings::of(spec, view, b, roles);
        let (width, place) = (observation.scalars(), observation.first_relative());
        for (i, values) in values.chunks_exact_mut(width).enumerate().filter(|(i, _)| roles.may_leave(*i)) {
            values[place..].copy_from_slice(&surroundings.scalars(i));
        }
    }
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
    /// Number of scalar inputs of an agent.
    pub fn scalars(&self) -> usize {
        self.first_relative() + if self.relative { RELATIVE.len() } else { 0 }
    }

    /// The scalar inputs by name, in order. Equal names have equal meanings in all observations.
    pub fn scalar_names(&self) -> Vec<&'static str> {
        let attention: &[_] = if self.cls_attention { &["cls_attention"] } else { &[] };
        let pair: &[_] = if self.pair { &["unlikeness", "size", "partner_size"] } else { &[] };
        let tokens: &[_] = if self.pair_tokens { &["token_unlikeness", "partner_attention"] } else { &[] };
        let relative: &[_] = if self.relative { &RELATIVE } else { &[] };
        [attention, pair, tokens, relative].concat()
    }

    /// Whether an actor that observes this fits every backbone: no input has a width of the backbone's.
    pub fn fits_any_backbone(&self) -> bool {
        !(self.embedding || self.position || self.stage || self.context)
    }

    /// Index of the scalar that a gate acts on: the dissimilarity of a pair by its keys, relative to the image's if there
    /// is one. `None` if the agents see no pair.
    pub fn gate_scalar(&self) -> Option<usize> {
        let names = self.scalar_names();
        let of = |wanted: &str| names.iter().position(|name| *name == wanted);
        of("relative_unlikeness").or_else(|| of("unlikeness"))
    }

    /// Index of the first scalar about the pair.
    fn first_of_pair(&self) -> usize {
        usize::from(self.cls_attention)
    }

    /// Index of the first relative scalar.
    fn first_relative(&self) -> usize {
        self.first_of_pair() + if self.pair { 3 } else { 0 } + if self.pair_tokens { 2 } else { 0 }
    }
}
