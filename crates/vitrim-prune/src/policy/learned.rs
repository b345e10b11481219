//! The trained policy as a pruner.

use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use crate::policy::actor::{Departure, Observation, PerceptronSpec};
use crate::policy::file::Policy;
use crate::policy::inference::{Perceptron, scalars};
use crate::policy::pairing::Pairing;
use crate::policy::read_out::ReadOut;
use crate::pruner::{ImageKey, PruneError, Pruner, Result};

/// Scores every agent with the actor and reads decisions out of its probabilities.
pub struct LearnedPruner {
    spec: VitSpec,
    stages: Vec<usize>,
    departure: Departure,
    observation: Observation,
    actor: Perceptron,
    read_out: ReadOut,
    images: Vec<ImageKey>,
}

/// What the actor makes of a stage.
pub struct Decision {
    /// Logits of p_keep, `[T]`; infinite where a token has to stay, as prefix tokens do.
    pub logits: Vec<f32>,
    /// The scalar inputs that they were computed from, `[T, n]`.
    pub scalars: Vec<f32>,
    /// Who joins whom, where leaving means merging.
    pub pairing: Option<Pairing>,
}

impl Decision {
    /// Whether row `t` has a choice.
    pub fn may_leave(&self, t: usize) -> bool {
        self.logits[t] != f32::INFINITY
    }

    /// How unlike row `t` and the one that it would join are, as `observation` has it in its scalars; `None` where it has
    /// no choice, or the observation has no pairs.
    pub fn unlikeness(&self, observation: &Observation, t: usize) -> Option<f32> {
        let seen = observation.pair && self.may_leave(t);
        seen.then(|| self.scalars[t * observation.scalars() + observation.first_of_pair()])
    }

    /// The reduction, if those with `kept: [T]` stay. Prefix tokens do, and who has to.
    pub fn reduction(&self, view: &View<'_>, kept: &[bool]) -> Reduction {
        let Some(pairing) = &self.pairing else { return Reduction::keep(view.offsets, kept) };
        let into = (0..view.total()).map(|t| if kept[t] { t } else { pairing.partner[t] });
        Reduction::join(view.offsets, &into.collect::<Vec<_>>(), view.sizes).with_proportional_attention()
    }
}

impl LearnedPruner {
    /// `policy` for a backbone of geometry `spec`, with the policy's own read-out.
    pub fn new(spec: &VitSpec, policy: &Policy) -> Self {
        LearnedPruner {
            spec: spec.clone(),
            stages: policy.stages.clone(),
            departure: policy.departure,
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

    /// The actor's geometry.
    pub fn actor_spec(&self) -> &PerceptronSpec {
        self.actor.spec()
    }

    /// What its agents observe.
    pub fn observation(&self) -> &Observation {
        &self.observation
    }

    /// Scores the agents of `view` at `stage`.
    ///
    /// # Errors
    /// If the view lacks what was asked for.
    pub fn decision(&self, stage: usize, view: &View<'_>) -> Result<Decision> {
        let pairing = match self.departure {
            Departure::Drop => None,
            Departure::Merge => Some(Pairing::of(view, self.observation.pair_tokens).ok_or_else(|| {
                PruneError::KeepProfile("a policy that merges needs a view that carries keys".into())
            })?),
        };
        let scalars = scalars(&self.observation, view, pairing.as_ref());
        let mut decision = Decision { logits: vec![f32::INFINITY; view.total()], scalars, pairing };
        let patches = (0..view.batch()).flat_map(|b| view.patch_rows(b));
        let has_choice = |t: &usize| decision.pairing.as_ref().is_none_or(|pairing| pairing.may_leave(*t));
        let agents: Vec<usize> = patches.filter(has_choice).collect();
        let outputs = self.actor.forward(stage, view, &agents, &decision.scalars);
        for (&t, o) in agents.iter().zip(outputs.chunks_exact(2)) {
            decision.logits[t] = o[1] - o[0];
        }
        Ok(decision)
    }
}

impl Pruner for LearnedPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let taps = Taps {
            cls_attention: self.observation.cls_attention || self.observation.pair_tokens,
            keys: self.departure == Departure::Merge,
            value_norm: false,
        };
        self.stages.iter().map(|&block| (self.departure.site(block), taps)).collect()
    }

    fn begin(&mut self, images: &[ImageKey]) {
        self.images = images.to_vec();
    }

    fn decide(&mut self, stage: usize, view: &View<'_>) -> Result<Reduction> {
        let decision = self.decision(stage, view)?;
        let kept = self.read_out.kept(&self.spec, stage, view, &decision.logits, &self.images);
        Ok(decision.reduction(view, &kept))
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        let spec = self.actor.spec();
        let n = (tokens - self.spec.num_prefix_tokens()) as u64;
        let pairing = match self.departure {
            Departure::Drop => 0,
            // Everybody's keys with everybody's, their norms, and the sums of those that join.
            Departure::Merge => {
                let tokens = if self.observation.pair_tokens { 3 * n * self.spec.dim as u64 } else { 0 };
                (n * n + n) * self.spec.head_dim() as u64 + n * self.spec.dim as u64 + tokens
            }
        };
        spec.macs_per_image() + spec.macs_per_agent() * tokens as u64 + pairing
    }
}
