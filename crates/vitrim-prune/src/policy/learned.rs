//! The trained policy as a pruner.

use std::cell::RefCell;

use rayon::prelude::*;
use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use crate::policy::actor::{Departure, Observation, PerceptronSpec};
use crate::policy::cosines::Cosines;
use crate::policy::file::Policy;
use crate::policy::inference::{Buffers, Perceptron, scalars};
use crate::policy::pairing::{Pairing, Roles, per_image};
use crate::policy::read_out::{ReadOut, Scored};
use crate::pruner::{ImageKey, PruneError, Pruner, Result};

thread_local! {
    /// A thread's working space for scoring the agents of an image.
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

#[derive(Default)]
struct Workspace {
    cosines: Cosines,
    agents: Vec<usize>,
    actor: Buffers,
}

/// One image of a stage, and the outputs for its t tokens.
struct Image<'a> {
    b: usize,
    /// Logits of p_keep, `[t]`.
    logits: &'a mut [f32],
    /// Scalar inputs of the actor, `[t, n]`.
    scalars: &'a mut [f32],
    /// The image's roles, for [`Departure::Merge`].
    roles: Option<Roles<'a>>,
    /// Which tokens stay, `[t]`, and the image's key; `None` if only the logits are wanted.
    kept: Option<(&'a mut [bool], ImageKey)>,
}

/// Scores every agent with the actor and reads decisions out of its probabilities.
pub struct LearnedPruner {
    spec: VitSpec,
    stages: Vec<usize>,
    departure: Departure,
    observation: Observation,
    actor: Perceptron,
    /// Added to the logits of each stage, `[K]`; empty: nothing.
    offsets: Vec<f32>,
    read_out: ReadOut,
}

/// The actor's output at a stage.
pub struct Decision {
    /// Logits of p_keep, `[T]`; infinite for tokens that have to stay, such as prefix tokens.
    pub logits: Vec<f32>,
    /// The scalar inputs of the actor, `[T, n]`.
    pub scalars: Vec<f32>,
    /// The partner of each token, for [`Departure::Merge`].
    pub pairing: Option<Pairing>,
}

impl Decision {
    /// Whether row `t` has a choice.
    pub fn may_leave(&self, t: usize) -> bool {
        self.logits[t] != f32::INFINITY
    }

    /// Dissimilarity of row `t` and its partner, as `observation` has it ([`Observation::gate_scalar`]); `None` if row `t` has no
    /// choice, or the observation has no pairs.
    pub fn unlikeness(&self, observation: &Observation, t: usize) -> Option<f32> {
        let place = observation.gate_scalar().filter(|_| self.may_leave(t))?;
        Some(self.scalars[t * observation.scalars() + place])
    }

    /// The reduction in which rows with `kept[t]` stay, `kept: [T]`. `kept` must be true for prefix tokens and for
    /// partners.
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
            offsets: policy.offsets.clone(),
            read_out: policy.read_out.clone(),
        }
    }

    /// Replaces the offsets of the stages' logits: one for each stage, or none.
    #[must_use]
    pub fn with_offsets(mut self, offsets: &[f32]) -> Self {
        self.offsets = offsets.to_vec();
        self
    }

    /// Replaces the read-out.
    pub fn with_read_out(mut self, read_out: ReadOut) -> Self {
        self.read_out = read_out;
        self
    }

    /// The actor's geometry.
    pub fn actor_spec(&self) -> &PerceptronSpec {
        self.actor.spec()
    }

    /// What the policy's agents observe.
    pub fn observation(&self) -> &Observation {
        &self.observation
    }

    /// Scores the agents of `view` at `stage`.
    ///
    /// # Errors
    /// If the view lacks a tap that the policy needs.
    pub fn decision(&self, stage: usize, view: &View<'_>) -> Result<Decision> {
        self.decide_each(stage, view, None)
    }

    /// The decision at `stage`. `read_out`: where to write which tokens stay, `[T]`, and the keys of the images,
    /// `[B]`; `None` if only the scores are wanted. Images are independent: one thread carries an image through all
    /// steps.
    fn decide_each(
        &self,
        stage: usize,
        view: &View<'_>,
        read_out: Option<(&mut [bool], &[ImageKey])>,
    ) -> Result<Decision> {
        self.check(stage, view)?;
        let keys = match self.departure {
            Departure::Drop => None,
            Departure::Merge => Some(view.keys.ok_or_else(|| {
                PruneError::KeepProfile("a policy that merges needs a view that carries keys".into())
            })?),
        };
        let (total, width) = (view.total(), self.observation.scalars());
        let mut decision = Decision {
            logits: vec![f32::INFINITY; total],
            scalars: vec![0.0; total * width],
            pairing: keys.map(|_| {
                let Observation { pair_tokens, relative, .. } = self.observation;
                Pairing::of_none(total, pair_tokens || relative, relative)
            }),
        };
        let roles: Vec<Option<Roles<'_>>> = match &mut decision.pairing {
            Some(pairing) => pairing.images(view).into_iter().map(Some).collect(),
            None => (0..view.batch()).map(|_| None).collect(),
        };
        let logits = per_image(view.offsets, 1, &mut decision.logits);
        let scalars = per_image(view.offsets, width, &mut decision.scalars);
        let kept: Vec<Option<_>> = match read_out {
            Some((kept, keys)) => {
                per_image(view.offsets, 1, kept).enumerate().map(|(b, kept)| Some((kept, keys[b]))).collect()
            }
            None => (0..view.batch()).map(|_| None).collect(),
        };
        let images = logits.zip(scalars).zip(roles).zip(kept).enumerate();
        let images =
            images.map(|(b, (((logits, scalars), roles), kept))| Image { b, logits, scalars, roles, kept });
        images.collect::<Vec<_>>().into_par_iter().for_each(|image| {
            WORKSPACE.with_borrow_mut(|workspace| self.decide_one(stage, view, keys, image, workspace));
        });
        Ok(decision)
    }

    /// Checks that the actor fits `view` at `stage`: a policy that was read from a file may be for another backbone.
    fn check(&self, stage: usize, view: &View<'_>) -> Result<()> {
        let actor = self.actor.spec();
        let fits = |width: usize, inputs: usize| width == 0 || width == inputs;
        if fits(actor.dim, view.dim)
            && fits(actor.positions, self.spec.num_patches())
            // A place has no fixed meaning where each image has a grid of its own.
            && (actor.positions == 0 || !self.spec.is_naflex())
            && fits(actor.stages, self.stages.len())
            && stage < self.stages.len()
        {
            return Ok(());
        }
        Err(PruneError::Setting(format!(
            "the policy is for tokens of width {} and {} places, not for this backbone ({} and {}); give the backbone it \
             was trained for",
            actor.dim,
            actor.positions,
            view.dim,
            self.spec.num_patches()
        )))
    }

    fn decide_one(
        &self,
        stage: usize,
        view: &View<'_>,
        keys: Option<&[f32]>,
        mut image: Image<'_>,
        Workspace { cosines, agents, actor }: &mut Workspace,
    ) {
        let b = image.b;
        if let (Some(roles), Some(keys)) = (&mut image.roles, keys) {
            roles.deal(view, keys, cosines);
        }
        let roles = image.roles.as_ref();
        scalars(&self.observation, &self.spec, view, b, roles, image.scalars);
        let first = view.rows(b).start;
        agents.clear();
        agents
            .extend(view.patch_rows(b).filter(|row| roles.is_none_or(|roles| roles.may_leave(row - first))));
        let offset = self.offsets.get(stage).copied().unwrap_or(0.0);
        let outputs = self.actor.forward(stage, view, b, agents, image.scalars, actor);
        for (row, o) in agents.iter().zip(outputs.chunks_exact(2)) {
            image.logits[row - first] = o[1] - o[0] + offset;
        }
        if let Some((kept, key)) = image.kept {
            let scored = Scored { stage, view, b, key, logits: image.logits };
            self.read_out.keep(&self.spec, &scored, kept);
        }
    }
}

impl Pruner for LearnedPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        let taps = Taps {
            cls_attention: self.observation.cls_attention
                || self.observation.pair_tokens
                || self.observation.relative,
            keys: self.departure == Departure::Merge,
            ..Taps::NONE
        };
        self.stages.iter().map(|&block| (self.departure.site(block), taps)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, keys: &[ImageKey]) -> Result<Reduction> {
        let mut kept = vec![true; view.total()];
        let decision = self.decide_each(stage, view, Some((&mut kept, keys)))?;
        Ok(decision.reduction(view, &kept))
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        let spec = self.actor.spec();
        let n = (tokens - self.spec.num_prefix_tokens()) as u64;
        let pairing = match self.departure {
            Departure::Drop => 0,
            // Cosines of all pairs of keys, the keys' norms, and the sums of merging tokens.
            Departure::Merge => {
                let Observation { pair_tokens, relative, .. } = self.observation;
                let (width, key) = (self.spec.dim as u64, self.spec.head_dim() as u64);
                let mut tokens = if pair_tokens || relative { 3 * n * width } else { 0 };
                if relative {
                    // Norms, sum and comparison with the class token; the sum of the keys.
                    tokens += 5 * n * width + 2 * n * key;
                }
                (n * n + n) * self.spec.head_dim() as u64 + n * self.spec.dim as u64 + tokens
            }
        };
        spec.macs_per_image() + spec.macs_per_agent() * tokens as u64 + pairing
    }
}
