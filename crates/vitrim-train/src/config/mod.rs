//! The configuration of training: one struct. Presets are values of it.

mod check;
mod presets;

use serde::{Deserialize, Serialize};
use vitrim_prune::policy::{Departure, Nonlinearity, Observation, PerceptronSpec, Universal, blocks_at};
use vitrim_vit::VitSpec;

use crate::schedule::cosine;

/// All settings of a training run. Presets are values of this struct.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of policy updates.
    pub updates: usize,
    /// Images per update.
    pub images_per_update: usize,
    /// Rollouts per image.
    pub rollouts_per_image: usize,
    /// 0-based blocks at which agents act, see [`Departure::site`]. Empty: a quarter, half and three quarters of the
    /// depth or, for agents that merge, the first third of the blocks and the one in the middle; for actors that fit every
    /// backbone, [`Universal::DEPTH_SHARES`].
    pub stages: Vec<usize>,
    /// How tokens leave.
    pub departure: Departure,
    /// How the actor learns.
    #[serde(default)]
    pub learner: LearnerKind,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Updates between checkpoints.
    pub checkpoint_every: usize,
    /// The agents' rewards.
    pub reward: RewardConfig,
    /// How rewards become advantages.
    pub advantage: AdvantageConfig,
    /// The shared actor.
    pub actor: ActorConfig,
    /// The centralised critic.
    pub critic: CriticConfig,
    /// Proximal policy optimisation.
    pub ppo: PpoConfig,
    /// The accuracy target.
    pub constraint: ConstraintConfig,
}

/// How the actor learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LearnerKind {
    /// By reinforcement: MAPPO, from sampled decisions and their rewards.
    #[default]
    Mappo,
    /// By gradients through the backbone: straight-through Gumbel gates (`gumbel.rs`). A control that shows what
    /// reinforcement gains.
    Gumbel,
}

/// The game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardKind {
    /// A prize for accuracy, and a penalty for missing the keep ratio (preset `paper`).
    Paper,
    /// Rent for every token-layer, and complete-prefix credit for fidelity.
    Prefix,
    /// Distillation, and a penalty for missing the keep ratio on the mean of a batch: DynamicViT's loss, only for the
    /// learner `gumbel`.
    Ratio,
}

/// Where a rollout is forked and finished without further pruning (`prefix`).
///
/// D_k, the divergence when pruning stops after stage k, does not depend on what is decided later. It is a baseline for
/// the later stages: with more forks the credit has less variance, and each costs up to a dense pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forks {
    /// After every stage: complete-prefix credit.
    #[default]
    EveryStage,
    /// After one stage, drawn for each update. The stages after it are paid for what D gains from there on, the others
    /// for the final D.
    OneStage,
    /// Nowhere: every stage is paid for the final D, and the image's other rollouts are the baseline.
    Nowhere,
}

/// Rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// The game.
    pub kind: RewardKind,
    /// `paper`: R at 196 patch tokens.
    pub prize: f64,
    /// `paper`, `ratio`: rho, the target keep ratio; all: the random reference keeps rho^k after stage k.
    pub keep_ratio: f64,
    /// `prefix`: s of g(D) = ln(1 + D / s), on which rewards are based, nats; 0 for g(D) = D.
    pub softening: f64,
    /// `prefix`: number of training images over which g_ref is averaged.
    pub reference_images: usize,
    /// `prefix`: where rollouts are forked.
    #[serde(default)]
    pub forks: Forks,
}

/// The baseline of advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The critic.
    Critic,
    /// The image's other rollouts (at least 1). At the first stage: the mean return of the same agent in them. Later:
    /// the mean of the team's reward in them, and the critic for the rest.
    LeaveOneOut,
}

/// How advantages are scaled over all agent-steps of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Zero mean, unit standard deviation.
    Normalize,
    /// Unit root mean square; the mean stays.
    Rms,
}

/// Settings of the advantages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvantageConfig {
    /// Discount per stage.
    pub gamma: f64,
    /// GAE's lambda.
    pub lambda: f64,
    /// Baseline.
    pub baseline: Baseline,
    /// Scaling.
    pub scaling: Scaling,
    /// Whether the critic predicts returns divided by their running root mean square.
    pub normalize_returns: bool,
}

/// The shared actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorConfig {
    /// What an agent observes.
    pub observation: Observation,
    /// Hidden widths.
    pub hidden: Vec<usize>,
    /// Non-linearity.
    pub activation: Nonlinearity,
    /// Whether a linear shortcut leads from the scalar inputs to the logits.
    pub shortcut: bool,
    /// Gain of the orthogonal initialisation of the policy head.
    pub head_gain: f32,
    /// Keep probability at the start; with a `gate`, the share of the first stage's agents with a keep probability
    /// above 1/2.
    pub initial_keep: f64,
    /// The gate: slope, at the start, of the logit of p_keep over the dissimilarity of an agent and its partner (the
    /// first scalar of [`Observation::pair`]); 0 for no gate. The shortcut's weights hold it.
    pub gate: f64,
    /// With a `gate`: the loss at which training starts, in percent of changed answers (or drift) of sampled rollouts.
    /// The gate is placed by a search on training images, between `initial_keep` and 1; 0 for no search.
    #[serde(default)]
    pub initial_loss: f64,
}

/// The centralised critic; it sees the embedding, the class token (or mean) and the position, unless the actor is without
/// its embedding: then it sees scalars alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticConfig {
    /// Whether embedding and context are normalised.
    pub layer_norm: bool,
    /// Whether the critic sees the stage, the actor's scalars, and the share of N0 still alive.
    pub progress: bool,
    /// Whether the critic sees the share of the *other* agents kept at this stage.
    pub others_kept: bool,
    /// Hidden widths.
    pub hidden: Vec<usize>,
    /// Non-linearity.
    pub activation: Nonlinearity,
}

/// Proximal policy optimisation. Rates fall along a cosine from the first value to the `_end` one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// Adam's learning rate of actor and critic.
    pub learning_rate: f64,
    /// Learning rate of the last update.
    pub learning_rate_end: f64,
    /// Adam's epsilon.
    pub adam_eps: f32,
    /// Clip range of the probability ratio.
    pub clip: f64,
    /// Weight of the entropy bonus.
    pub entropy: f64,
    /// Weight of the entropy bonus at the last update.
    pub entropy_end: f64,
    /// Passes over each update's experience.
    pub epochs: usize,
    /// Minibatches per pass, each of whole episodes.
    pub minibatches: usize,
    /// Largest gradient norm, separately for actor and critic.
    pub max_grad_norm: f64,
    /// Approximate KL above which an update's epochs end; 0 for no such stop.
    pub target_kl: f64,
}

/// The accuracy target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstraintConfig {
    /// d*: the accuracy loss allowed, pp of top-1; for a backbone without classes, the drift, percent.
    #[serde(rename = "max_drop")]
    pub max_accuracy_loss: f64,
    /// beta at the start.
    pub beta: f64,
    /// Step of log beta.
    pub rate: f64,
    /// Lower bound of beta.
    pub beta_min: f64,
    /// Upper bound of beta.
    pub beta_max: f64,
    /// Number of last updates whose divergence gives the estimated accuracy loss.
    pub average_over: usize,
}

impl TrainConfig {
    /// The blocks at which agents act, for a backbone of geometry `spec`.
    pub fn stages(&self, spec: &VitSpec) -> Vec<usize> {
        match (self.stages.as_slice(), self.departure) {
            ([], departure) if self.actor.observation.fits_any_backbone() => {
                blocks_at(&Universal::DEPTH_SHARES, spec.depth, departure)
            }
            ([], Departure::Drop) => spec.default_stages(),
            // Similar tokens are similar from the first block on, and merging few at a time does less harm.
            ([], Departure::Merge) => {
                let mut stages: Vec<usize> = (0..=spec.depth / 3).chain([spec.depth / 2]).collect();
                stages.dedup();
                stages.retain(|block| block + 1 < spec.depth);
                stages
            }
            (stages, _) => stages.to_vec(),
        }
    }

    /// The actor's geometry.
    pub fn actor_spec(&self, spec: &VitSpec) -> PerceptronSpec {
        let observation = &self.actor.observation;
        PerceptronSpec {
            dim: if observation.embedding { spec.dim } else { 0 },
            positions: if observation.position { spec.num_patches() } else { 0 },
            stages: if observation.stage { self.stages(spec).len() } else { 0 },
            scalars: observation.scalars(),
            shortcut: self.actor.shortcut,
            context: observation.context,
            layer_norm: observation.layer_norm,
            hidden: self.actor.hidden.clone(),
            activation: self.actor.activation,
            outputs: 2,
        }
    }

    /// The critic's geometry: its scalars are those of the actor and the share alive (`progress`), then the share of
    /// the other agents kept (`others_kept`).
    pub fn critic_spec(&self, spec: &VitSpec) -> PerceptronSpec {
        let (progress, embedded) = (self.critic.progress, self.actor.observation.embedding);
        let scalars = if progress { self.actor.observation.scalars() + 1 } else { 0 };
        PerceptronSpec {
            dim: if embedded { spec.dim } else { 0 },
            // A place has no fixed meaning where each image has a grid of its own.
            positions: if embedded && !spec.is_naflex() { spec.num_patches() } else { 0 },
            stages: if progress && embedded { self.stages(spec).len() } else { 0 },
            scalars: scalars + usize::from(self.critic.others_kept),
            shortcut: false,
            context: embedded,
            layer_norm: self.critic.layer_norm,
            hidden: self.critic.hidden.clone(),
            activation: self.critic.activation,
            outputs: 1,
        }
    }
}

impl PpoConfig {
    /// (learning rate, entropy weight) of update `update` of `updates`: cosine and linear decay.
    pub fn schedule(&self, update: usize, updates: usize) -> (f64, f64) {
        let progress = update as f64 / updates.saturating_sub(1).max(1) as f64;
        let progress = progress.min(1.0);
        let rate = cosine(self.learning_rate, self.learning_rate_end, progress);
        (rate, self.entropy + (self.entropy_end - self.entropy) * progress)
    }
}
