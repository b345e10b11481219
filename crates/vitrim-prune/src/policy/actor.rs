//! The actor as plain numbers: its observation, its geometry, its weights.
//!
//! All agents share one actor. It is a multi-layer perceptron over an agent's observation. Its first layer is stored
//! in parts, so that a one-hot input costs a table look-up, and an input that all agents of an image share is
//! multiplied once per image.

use serde::{Deserialize, Serialize};
use vitrim_vit::Site;

/// How a token leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Departure {
    /// The token is dropped, at the input of the stage's block.
    #[default]
    Drop,
    /// The token is merged into the most similar token, between attention and MLP of the stage's block; later
    /// attention counts sizes (as in ToMe). Partners are fixed before agents act (see [`Pairing`](super::Pairing)); a
    /// token that is the partner of another one has to stay at this stage.
    Merge,
}

impl Departure {
    /// The site at which agents act at the stage of `block`.
    pub fn site(self, block: usize) -> Site {
        match self {
            Departure::Drop => Site::input_of(block),
            Departure::Merge => Site::after_attention_of(block),
        }
    }

    /// The first block whose attention sees only the survivors of the stage of `block`.
    pub fn next_attention(self, block: usize) -> usize {
        match self {
            Departure::Drop => block,
            Departure::Merge => block + 1,
        }
    }
}

/// What an agent observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// The agent's own residual-stream embedding `x_i: [D]`. Without it, and without position and context, an actor fits
    /// tokens of any width.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub embedding: bool,
    /// Normalise `x_i` (and the context) to zero mean and unit variance over the D values; otherwise the raw values
    /// are inputs.
    pub layer_norm: bool,
    /// A one-hot of the agent's grid position, N0 values.
    pub position: bool,
    /// A one-hot of the stage, K values.
    pub stage: bool,
    /// The class token's attention to the agent in the last attention that ran: `ln(attention * T_b)`, with T_b
    /// the image's tokens, 0 where attention is even.
    pub cls_attention: bool,
    /// For [`Departure::Merge`]: the dissimilarity of the agent and its partner, `ln(1 - cosine) + 3`, and `ln` of
    /// the size of either; 0 if the token has to stay.
    #[serde(default)]
    pub pair: bool,
    /// More of the pair: the dissimilarity of the two tokens themselves, `ln(1 - cosine) + 1` of `x_i` minus its
    /// mean, and the class token's attention to the partner, as in `cls_attention`; 0 if the token has to stay.
    #[serde(default)]
    pub pair_tokens: bool,
    /// The class token's embedding, D values (without a class token: the survivors' mean).
    pub context: bool,
    /// For [`Departure::Merge`]: scalars in units of the image's own means and ranks, which mean the same on every
    /// backbone ([`RELATIVE`](super::relative::RELATIVE)); 0 if the token has to stay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub relative: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Non-linearity between the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nonlinearity {
    /// Hyperbolic tangent.
    Tanh,
    /// Exact GELU.
    Gelu,
}

/// Geometry of a perceptron over agents: the actor or, with other inputs, the critic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptronSpec {
    /// D, the width of a token; 0 without embedding and context.
    pub dim: usize,
    /// N0, the number of grid positions; 0 without the one-hot.
    pub positions: usize,
    /// K, the number of stages; 0 without the one-hot.
    pub stages: usize,
    /// Number of scalar inputs of an agent.
    pub scalars: usize,
    /// Whether a linear shortcut leads from the scalars to the outputs.
    #[serde(default)]
    pub shortcut: bool,
    /// Whether a context vector of D values is an input.
    pub context: bool,
    /// Whether `x_i` and the context are normalised.
    pub layer_norm: bool,
    /// Widths of the hidden layers, at least one.
    pub hidden: Vec<usize>,
    /// Non-linearity after each hidden layer.
    pub activation: Nonlinearity,
    /// Outputs: 2 for the actor (prune, keep), 1 for the critic.
    pub outputs: usize,
}

/// Weights of a [`PerceptronSpec`]; H is the first hidden width, all matrices row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct PerceptronWeights {
    /// Weights of the embedding, `[H, D]`; empty without it.
    pub embedding: Vec<f32>,
    /// One row per grid position, `[positions, H]`.
    pub position: Vec<f32>,
    /// One row per stage, `[stages, H]`.
    pub stage: Vec<f32>,
    /// Weights of the scalars, `[H, scalars]`.
    pub scalar: Vec<f32>,
    /// Weights of the context, `[H, D]`; empty without a context.
    pub context: Vec<f32>,
    /// Bias of the first layer, `[H]`.
    pub bias: Vec<f32>,
    /// Weights of the shortcut, `[outputs, scalars]`; empty without a shortcut.
    pub shortcut: Vec<f32>,
    /// Each further layer: weight `[out, in]` and bias `[out]`; the last is the head.
    pub layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl PerceptronSpec {
    /// Name and shape of every tensor, in the order of a policy file.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden[0];
        let mut shapes = Vec::new();
        if self.dim > 0 {
            shapes.push(("embedding".to_owned(), vec![h, self.dim]));
        }
        if self.positions > 0 {
            shapes.push(("position".to_owned(), vec![self.positions, h]));
        }
        if self.stages > 0 {
            shapes.push(("stage".to_owned(), vec![self.stages, h]));
        }
        if self.scalars > 0 {
            shapes.push(("scalar".to_owned(), vec![h, self.scalars]));
        }
        if self.context {
            shapes.push(("context".to_owned(), vec![h, self.dim]));
        }
        shapes.push(("bias".to_owned(), vec![h]));
        if self.shortcut && self.scalars > 0 {
            shapes.push(("shortcut".to_owned(), vec![self.outputs, self.scalars]));
        }
        for (i, (inputs, outputs)) in self.layer_widths().into_iter().enumerate() {
            shapes.push((format!("layers.{i}.weight"), vec![outputs, inputs]));
            shapes.push((format!("layers.{i}.bias"), vec![outputs]));
        }
        shapes
    }

    /// (inputs, outputs) of each layer after the first.
    pub fn layer_widths(&self) -> Vec<(usize, usize)> {
        let widths = self.hidden.iter().copied().chain([self.outputs]).collect::<Vec<_>>();
        widths.windows(2).map(|w| (w[0], w[1])).collect()
    }

    /// MACs for one agent, without the part that all agents of an image share.
    pub fn macs_per_agent(&self) -> u64 {
        let first = self.hidden[0] * (self.dim + self.scalars);
        let rest: usize = self.layer_widths().iter().map(|(i, o)| i * o).sum();
        let shortcut = if self.shortcut { self.outputs * self.scalars } else { 0 };
        (first + rest + shortcut) as u64
    }

    /// MACs for one image at one stage, independent of the number of its agents: the context's part.
    pub fn macs_per_image(&self) -> u64 {
        if self.context { (self.hidden[0] * self.dim) as u64 } else { 0 }
    }
}

impl PerceptronWeights {
    /// All-zero weights.
    pub fn zeros(spec: &PerceptronSpec) -> Self {
        let h = spec.hidden[0];
        PerceptronWeights {
            embedding: vec![0.0; h * spec.dim],
            position: vec![0.0; spec.positions * h],
            stage: vec![0.0; spec.stages * h],
            scalar: vec![0.0; h * spec.scalars],
            context: vec![0.0; if spec.context { h * spec.dim } else { 0 }],
            bias: vec![0.0; h],
            shortcut: vec![0.0; if spec.shortcut { spec.outputs * spec.scalars } else { 0 }],
            layers: spec.layer_widths().into_iter().map(|(i, o)| (vec![0.0; o * i], vec![0.0; o])).collect(),
        }
    }

    /// The tensors under the names of [`PerceptronSpec::tensor_shapes`].
    pub fn named(&self) -> Vec<(String, &Vec<f32>)> {
        let first = [
            ("embedding", &self.embedding),
            ("position", &self.position),
            ("stage", &self.stage),
            ("scalar", &self.scalar),
            ("context", &self.context),
            ("bias", &self.bias),
            ("shortcut", &self.shortcut),
        ];
        let mut named: Vec<(String, &Vec<f32>)> = first
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, values)| (name.to_owned(), values))
            .collect();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            named.push((format!("layers.{i}.weight"), weight));
            named.push((format!("layers.{i}.bias"), bias));
        }
        named
    }

    /// Like [`PerceptronWeights::named`], mutable.
    pub fn named_mut(&mut self) -> Vec<(String, &mut Vec<f32>)> {
        let first = [
            ("embedding", &mut self.embedding),
            ("position", &mut self.position),
            ("stage", &mut self.stage),
            ("scalar", &mut self.scalar),
            ("context", &mut self.context),
            ("bias", &mut self.bias),
            ("shortcut", &mut self.shortcut),
        ];
        let mut named: Vec<(String, &mut Vec<f32>)> = first
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, values)| (name.to_owned(), values))
            .collect();
        for (i, (weight, bias)) in self.layers.iter_mut().enumerate() {
            named.push((format!("layers.{i}.weight"), weight));
            named.push((format!("layers.{i}.bias"), bias));
        }
        named
    }
}
