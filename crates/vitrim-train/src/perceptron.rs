//! The perceptron over agents with gradients: the actor and the critic.
//!
//! The first layer's input is `[x_i, one-hot position, one-hot stage, scalars, context]`, but its weights are kept in
//! parts: a one-hot input costs a row look-up, and a context, which all agents of an image share, is multiplied once
//! per image and stage.

use burn::module::{Module, Param};
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Int, Tensor, TensorData};
use vitrim_prune::policy::actor::{Nonlinearity, PerceptronSpec, PerceptronWeights};
use vitrim_random::SplitMix64;

use crate::experience::Experience;
use crate::fused::{gelu, linear, tanh};
use crate::linear::Linear;

/// Epsilon of the normalisation of embeddings and contexts.
pub const LAYER_NORM_EPS: f64 = 1e-5;

/// [`PerceptronWeights`] with gradients; H is the first hidden width. Fields are in the order of
/// [`PerceptronSpec::tensor_shapes`].
#[derive(Module, Debug)]
pub struct Perceptron {
    /// Weights of the embedding, `[H, D]`; `None` without it.
    embedding: Option<Param<Tensor<2>>>,
    /// One row per grid position, `[positions, H]`.
    position: Option<Param<Tensor<2>>>,
    /// One row per stage, `[stages, H]`.
    stage: Option<Param<Tensor<2>>>,
    /// Weights of the scalars, `[H, scalars]`.
    scalar: Option<Param<Tensor<2>>>,
    /// Weights of the context, `[H, D]`.
    context: Option<Param<Tensor<2>>>,
    /// Bias of the first layer, `[H]`.
    bias: Param<Tensor<1>>,
    /// Weights of the shortcut, `[outputs, scalars]`.
    shortcut: Option<Param<Tensor<2>>>,
    layers: Vec<Linear>,
    #[module(skip)]
    activation: Nonlinearity,
}

/// The inputs of a [`Perceptron`] for S agent-steps, with C contexts.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Embeddings, normalised if the spec says so, `[S, D]`; `None` without them.
    pub tokens: Option<Tensor<2>>,
    /// Grid positions, `[S]`.
    pub positions: Tensor<1, Int>,
    /// Stages, `[S]`.
    pub stages: Tensor<1, Int>,
    /// Scalar inputs, `[S, scalars]`; `None` without any.
    pub scalars: Option<Tensor<2>>,
    /// Contexts, normalised like the tokens, `[C, D]`; `None` without embeddings.
    pub contexts: Option<Tensor<2>>,
    /// Row of `contexts` of each agent-step, `[S]`.
    pub context_of: Tensor<1, Int>,
}

impl Inputs {
    /// All agent-steps of `experience`, with `scalars: [S, spec.scalars]`, on `device`.
    pub fn new(spec: &PerceptronSpec, experience: &Experience, scalars: &[f32], device: &Device) -> Self {
        let embeddings = |values: &[f32]| {
            if spec.dim == 0 {
                return None;
            }
            let x = matrix(values, [values.len() / spec.dim, spec.dim], device);
            if !spec.layer_norm || values.is_empty() {
                return Some(x);
            }
            Some(layer_norm(x, Tensor::ones([spec.dim], device), None, LAYER_NORM_EPS))
        };
        Inputs {
            tokens: embeddings(&experience.tokens),
            positions: indices(&experience.positions, device),
            stages: indices(&experience.stages, device),
            scalars: (spec.scalars > 0).then(|| matrix(scalars, [experience.len(), spec.scalars], device)),
            contexts: embeddings(&experience.contexts),
            context_of: indices(&experience.context_of, device),
        }
    }

    /// The agent-steps `rows: [R]`, with all contexts.
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Inputs {
            tokens: self.tokens.clone().map(|tokens| tokens.select(0, rows.clone())),
            positions: self.positions.clone().select(0, rows.clone()),
            stages: self.stages.clone().select(0, rows.clone()),
            scalars: self.scalars.clone().map(|scalars| scalars.select(0, rows.clone())),
            contexts: self.contexts.clone(),
            context_of: self.context_of.clone().select(0, rows.clone()),
        }
    }

    /// The agent-steps of `range`, with all contexts.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Inputs {
            tokens: self.tokens.clone().map(|tokens| tokens.slice(range.clone())),
            positions: self.positions.clone().slice(range.clone()),
            stages: self.stages.clone().slice(range.clone()),
            scalars: self.scalars.clone().map(|scalars| scalars.slice(range.clone())),
            contexts: self.contexts.clone(),
            context_of: self.context_of.clone().slice(range),
        }
    }

    /// S, the number of agent-steps.
    pub fn len(&self) -> usize {
        self.stages.dims()[0]
    }

    /// Whether there is no agent-step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Perceptron {
    /// The perceptron with `weights`, on `device`.
    ///
    /// # Panics
    /// If `weights` do not have the shapes of `spec`.
    pub fn from_weights(spec: &PerceptronSpec, weights: &PerceptronWeights, device: &Device) -> Self {
        let h = spec.hidden[0];
        let param = |values: &[f32], shape| Param::from_tensor(matrix(values, shape, device));
        let vector = |values: &[f32]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device))
        };
        let widths = spec.layer_widths().into_iter();
        Perceptron {
            embedding: (spec.dim > 0).then(|| param(&weights.embedding, [h, spec.dim])),
            position: (spec.positions > 0).then(|| param(&weights.position, [spec.positions, h])),
            stage: (spec.stages > 0).then(|| param(&weights.stage, [spec.stages, h])),
            scalar: (spec.scalars > 0).then(|| param(&weights.scalar, [h, spec.scalars])),
            context: spec.context.then(|| param(&weights.context, [h, spec.dim])),
            bias: vector(&weights.bias),
            shortcut: (spec.shortcut && spec.scalars > 0)
                .then(|| param(&weights.shortcut, [spec.outputs, spec.scalars])),
            layers: widths
                .zip(&weights.layers)
                .map(|((inputs, outputs), (weight, bias))| Linear {
                    weight: param(weight, [outputs, inputs]),
                    bias: Some(vector(bias)),
                })
                .collect(),
            activation: spec.activation,
        }
    }

    /// The weights as plain numbers.
    pub fn weights(&self) -> PerceptronWeights {
        let optional = |param: &Option<Param<Tensor<2>>>| param.as_ref().map_or_else(Vec::new, numbers);
        PerceptronWeights {
            embedding: optional(&self.embedding),
            position: optional(&self.position),
            stage: optional(&self.stage),
            scalar: optional(&self.scalar),
            context: optional(&self.context),
            bias: numbers(&self.bias),
            shortcut: optional(&self.shortcut),
            layers: self
                .layers
                .iter()
                .map(|layer| (numbers(&layer.weight), layer.bias.as_ref().map_or_else(Vec::new, numbers)))
                .collect(),
        }
    }

    /// S agent-steps to `[S, outputs]`.
    pub fn forward(&self, inputs: &Inputs) -> Tensor<2> {
        let mut hidden = match (&self.embedding, &inputs.tokens) {
            (Some(weight), Some(tokens)) => linear(tokens.clone(), weight.val(), Some(self.bias.val())),
            _ => self.bias.val().unsqueeze_dim::<2>(0).repeat_dim(0, inputs.len()),
        };
        if let Some(table) = &self.position {
            hidden = hidden + table.val().select(0, inputs.positions.clone());
        }
        if let Some(table) = &self.stage {
            hidden = hidden + table.val().select(0, inputs.stages.clone());
        }
        if let (Some(weight), Some(scalars)) = (&self.scalar, &inputs.scalars) {
            hidden = hidden + scalars.clone().matmul(weight.val().transpose());
        }
        if let (Some(weight), Some(contexts)) = (&self.context, &inputs.contexts) {
            let context = contexts.clone().matmul(weight.val().transpose()); // [C, H]
            hidden = hidden + context.select(0, inputs.context_of.clone());
        }
        for layer in &self.layers {
            let active = match self.activation {
                Nonlinearity::Tanh => tanh(hidden),
                Nonlinearity::Gelu => gelu(hidden),
            };
            hidden = layer.forward(active);
        }
        if let (Some(weight), Some(scalars)) = (&self.shortcut, &inputs.scalars) {
            hidden = hidden + scalars.clone().matmul(weight.val().transpose());
        }
        hidden
    }
}

fn matrix(values: &[f32], shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

fn numbers<const D: usize>(param: &Param<Tensor<D>>) -> Vec<f32> {
    param.val().try_into_vec_as().expect("the device gives parameters up as f32")
}

/// Orthogonal weights (Saxe et al., 2014) as in PPO implementations: gain 1 in the hidden layers, `head_gain` in the
/// head; biases and shortcut 0, the head's bias `head_bias: [outputs]`. The first layer is orthogonal over all its
/// inputs together. A pure function of its arguments.
pub fn orthogonal_init(
    spec: &PerceptronSpec,
    seed: u64,
    head_gain: f32,
    head_bias: &[f32],
) -> PerceptronWeights {
    let mut generator = SplitMix64::new(seed);
    let mut weights = PerceptronWeights::zeros(spec);

    // `[H, D | positions | stages | scalars | D]`, to be split into its parts.
    let h = spec.hidden[0];
    let context = if spec.context { spec.dim } else { 0 };
    let parts = [spec.dim, spec.positions, spec.stages, spec.scalars, context];
    let inputs = parts.iter().sum();
    let first = orthogonal(h, inputs, 1.0, &mut generator);
    let starts: Vec<usize> =
        parts.iter().scan(0, |end, width| Some(std::mem::replace(end, *end + width))).collect();
    let rows = |part: usize| -> Vec<f32> {
        let row = |r: usize| &first[r * inputs + starts[part]..][..parts[part]];
        (0..h).flat_map(|r| row(r).to_vec()).collect()
    };
    let columns = |part: usize| -> Vec<f32> {
        (0..parts[part])
            .flat_map(|c| (0..h).map(move |r| (r, c)))
            .map(|(r, c)| first[r * inputs + starts[part] + c])
            .collect()
    };
    weights.embedding = rows(0);
    weights.position = columns(1);
    weights.stage = columns(2);
    weights.scalar = rows(3);
    weights.context = rows(4);

    let last = weights.layers.len() - 1;
    for (i, (inputs, outputs)) in spec.layer_widths().into_iter().enumerate() {
        let gain = if i == last { head_gain } else { 1.0 };
        weights.layers[i].0 = orthogonal(outputs, inputs, gain, &mut generator);
    }
    weights.layers[last].1.copy_from_slice(head_bias);
    weights
}

/// `gain` times a random `[rows, columns]` matrix whose shorter side is orthonormal: normal draws, orthonormalised by
/// the Gram-Schmidt process.
pub(crate) fn orthogonal(rows: usize, columns: usize, gain: f32, generator: &mut SplitMix64) -> Vec<f32> {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut vector: Vec<f64> = (0..length).map(|_| generator.normal()).collect();
        // Two passes are enough (Giraud et al., 2005).
        for _ in 0..2 {
            for other in &basis {
                let dot: f64 = other.iter().zip(&vector).map(|(a, b)| a * b).sum();
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= dot * o);
            }
        }
        let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|v| *v /= norm);
        basis.push(vector);
    }
    let at = |r: usize, c: usize| if rows <= columns { basis[r][c] } else { basis[c][r] };
    (0..rows)
        .flat_map(|r| (0..columns).map(move |c| (r, c)))
        .map(|(r, c)| (at(r, c) * f64::from(gain)) as f32)
        .collect()
}
