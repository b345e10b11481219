//! The trained policy as a pruner.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use crate::policy::actor::Observation;
use crate::policy::file::Policy;
use crate::policy::inference::{Perceptron, scalars};
use crate::policy::read_out::ReadOut;
use crate::pruner::{ImageKey, Pruner, Result};

/// Scores every agent with the actor and reads decisions out of its probabilities.
pub struct LearnedPruner {
    spec: VitSpec,
    stages: Vec<usize>,
    observation: Observation,
    actor: Perceptron,
    read_out: ReadOut,
    images: Vec<ImageKey>,
}

impl LearnedPruner {
    /// `policy` for a backbone of geometry `spec`, with the policy's own read-out.
    pub fn new(spec: &VitSpec, policy: &Policy) -> Self {
        LearnedPruner {
            spec: spec.clone(),
            stages: policy.stages.clone(),
            observation: policy.observation,
            actor: Perceptron::new(&policy.actor, &policy.weights),
            read_out: policy.read_out.clone(),
            images: Vec::new(),
        }
    }

    /// With another read-out.
    pub fn with_read_out(mut self, read_out: ReadOut) -> Self {
        self.read_out = read_out;
        self
    }

    /// Logits of p_keep, `[T]`, and the scalar inputs they were computed from, `[T, n]`.
    pub fn logits(&self, stage: usize, view: &View<'_>) -> (Vec<f32>, Vec<f32>) {
        let scalars = scalars(&self.observation, view);
        let outputs = self.actor.forward(stage, view, &scalars);
        (outputs.chunks_exact(2).map(|o| o[1] - o[0]).collect(), scalars)
    }
}

impl Pruner for LearnedPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let taps = Taps { cls_attention: self.observation.cls_attention, ..Taps::NONE };
        self.stages.iter().map(|&block| (Site::input_of(block), taps)).collect()
    }

    fn begin(&mut self, images: &[ImageKey]) {
        self.images = images.to_vec();
    }

    fn decide(&mut self, stage: usize, view: &View<'_>) -> Result<Reduction> {
        let (logits, _) = self.logits(stage, view);
        Ok(self.read_out.decide(&self.spec, stage, view, &logits, &self.images))
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        let spec = self.actor.spec();
        spec.macs_per_image() + spec.macs_per_agent() * tokens as u64
    }
}
