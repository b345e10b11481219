//! An untrained policy: its decisions mean nothing, but its cost is that of a trained policy.

use vitrim_random::uniform;
use vitrim_vit::VitSpec;

use super::actor::{Departure, Nonlinearity, Observation, PerceptronSpec, PerceptronWeights};
use super::file::{BackboneId, Policy};
use super::read_out::ReadOut;

/// Widths of the hidden layers, as in the training preset `drop`.
const HIDDEN: [usize; 2] = [32, 32];

impl Policy {
    /// A policy for the backbone `backbone` of geometry `spec`, which drops tokens and keeps `keep` of N0 after each of
    /// `stages`. Its actor has the geometry of the training preset `drop`, and random weights.
    pub fn untrained(spec: &VitSpec, backbone: BackboneId, stages: &[usize], keep: &[f64]) -> Self {
        let observation = Observation {
            embedding: true,
            layer_norm: true,
            // A place has no fixed meaning where each image has a grid of its own.
            position: !spec.is_naflex(),
            stage: true,
            // No attention has run before block 0.
            cls_attention: stages.first() != Some(&0),
            pair: false,
            pair_tokens: false,
            context: false,
            relative: false,
        };
        let actor = PerceptronSpec {
            dim: spec.dim,
            positions: if observation.position { spec.num_patches() } else { 0 },
            stages: stages.len(),
            scalars: observation.scalars(),
            shortcut: false,
            context: false,
            layer_norm: true,
            hidden: HIDDEN.to_vec(),
            activation: Nonlinearity::Gelu,
            outputs: 2,
        };
        Policy {
            backbone,
            stages: stages.to_vec(),
            departure: Departure::Drop,
            observation,
            weights: random_weights(&actor),
            actor,
            read_out: ReadOut::TopR { keep: keep.to_vec() },
            offsets: Vec::new(),
            calibration: None,
        }
    }
}

/// Weights uniform in -1 to 1, over the square root of a layer's inputs; biases are 0. Equal geometries get equal
/// weights.
fn random_weights(spec: &PerceptronSpec) -> PerceptronWeights {
    let mut weights = PerceptronWeights::zeros(spec);
    for (tensor, (name, values)) in weights.named_mut().into_iter().enumerate() {
        if name.ends_with("bias") {
            continue;
        }
        let scale = 1.0 / (spec.dim as f64).sqrt();
        for (i, value) in values.iter_mut().enumerate() {
            *value = ((2.0 * uniform(&[tensor as u64, i as u64]) - 1.0) * scale) as f32;
        }
    }
    weights
}
