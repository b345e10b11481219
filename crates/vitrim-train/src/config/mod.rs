//! Training as data: one struct; presets are values of it.

mod check;
mod presets;

use serde::{Deserialize, Serialize};
use vitrim_prune::policy::{Departure, Nonlinearity, Observation, PerceptronSpec};
use vitrim_vit::VitSpec;

use crate::schedule::cosine;

/// Everything that shapes a training run. Presets are values of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Policy updates.
    pub updates: usize,
    /// Images an update.
    pub images_per_update: usize,
    /// Rollouts of each image.
    pub rollouts_per_image: usize,
    /// 0-based blocks at which agents act, see [`Departure::site`]; empty for a quarter, half and three quarters of the
    /// depth, or, for those that merge, the first third of the blocks and the one in the middle.
    pub stages: Vec<usize>,
    /// What becomes of those that leave.
    pub departure: Departure,
    /// How the actor learns.
    #[serde(default)]
    pub learner: LearnerKind,
    /// Seed of everything that is random.
    pub seed: u64,
    /// Updates between checkpoints.
    pub checkpoint_every: usize,
    /// What agents are paid for.
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
    /// By reinforcement: MAPPO, from sampled decisions and what they were paid.
    #[default]
    Mappo,
    /// By gradients through the backbone: straight-through Gumbel gates (`gumbel.rs`). The controls that say what
    /// reinforcement is worth.
    Gumbel,
}

/// Which game is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardKind {
    /// The seed paper's: a prize for accuracy, a penalty for missing the keep ratio.
    Paper,
    /// Rent for every token-layer, complete-prefix credit for fidelity.
    Prefix,
    /// Distillation, and a penalty for missing the keep ratio on the mean of a batch: DynamicViT's loss, for the learner
    /// `gumbel` alone.
    Ratio,
}

/// Rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// Which game is played.
    pub kind: RewardKind,
    /// `paper`: R at 196 patch tokens.
    pub prize: f64,
    /// `paper`, `ratio`: rho, the target keep ratio; all: the random reference keeps rho^k.
    pub keep_ratio: f64,
    /// `prefix`: s of what is paid for, g(D) = ln(1 + D / s), nats; 0 for g(D) = D.
    pub softening: f64,
    /// `prefix`: training images that g_ref is averaged over.
    pub reference_images: usize,
}

/// The baseline that advantages are taken against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The critic.
    Critic,
    /// The image's other rollouts (at least 1): at the first stage the mean return of the same agent
    /// there; later the mean of what the team received there, and the critic for what that leaves.
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

/// Advantages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvantageConfig {
    /// Discount a stage.
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
    /// What an agent observes beside its embedding.
    pub observation: Observation,
    /// Hidden widths.
    pub hidden: Vec<usize>,
    /// Non-linearity.
    pub activation: Nonlinearity,
    /// Whether the logits are also linear in the scalar inputs, past the hidden layers.
    pub shortcut: bool,
    /// Gain of the orthogonal initialisation of the policy head.
    pub head_gain: f32,
    /// Keep probability at the start; with a `gate`, the share of the first stage's agents that is likelier to stay.
    pub initial_keep: f64,
    /// How fast the logit of p_keep rises, at the start, with how unlike an agent and the one that it would join are
    /// ([`Observation::pair`]'s first scalar); 0 for agents that start indifferent. The short cut carries it.
    pub gate: f64,
}

/// The centralised critic; it always sees the embedding, the class token (or mean) and the position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticConfig {
    /// Whether embedding and context are normalised.
    pub layer_norm: bool,
    /// Whether it sees the stage, the actor's scalars, and the share of N0 still alive.
    pub progress: bool,
    /// Whether it sees the share of the *other* agents kept at this stage.
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
    /// Weight of the last update.
    pub entropy_end: f64,
    /// Passes over each update's experience.
    pub epochs: usize,
    /// Minibatches a pass, each of whole episodes.
    pub minibatches: usize,
    /// Gradient norm clip, for actor and critic each.
    pub max_grad_norm: f64,
    /// Approximate KL above which an update's epochs end; 0 for no such stop.
    pub target_kl: f64,
}

/// The accuracy target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstraintConfig {
    /// d*: the accuracy loss that may be spent, pp of top-1; of a backbone without classes, the drift, percent.
    #[serde(rename = "max_drop")]
    pub max_accuracy_loss: f64,
    /// beta at the start.
    pub beta: f64,
    /// Step of log beta.
    pub rate: f64,
    /// Least beta.
    pub beta_min: f64,
    /// Greatest beta.
    pub beta_max: f64,
    /// Updates whose divergence the accuracy loss is estimated from.
    pub average_over: usize,
}

impl TrainConfig {
    /// The blocks at which agents act, for a backbone of geometry `spec`.
    pub fn stages(&self, spec: &VitSpec) -> Vec<usize> {
        match (self.stages.as_slice(), self.departure) {
            ([], Departure::Drop) => spec.default_stages(),
            // What is alike is so from the first block on, and few at a time leave with less harm.
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
            dim: spec.dim,
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

    /// The critic's geometry: its scalars are the actor's and the share alive (`progress`), then the
    /// share of the others kept (`others_kept`).
    pub fn critic_spec(&self, spec: &VitSpec) -> PerceptronSpec {
        let progress = self.critic.progress;
        let scalars = if progress { self.actor.observation.scalars() + 1 } else { 0 };
        PerceptronSpec {
            dim: spec.dim,
            positions: spec.num_patches(),
            stages: if progress { self.stages(spec).len() } else { 0 },
            scalars: scalars + usize::from(self.critic.others_kept),
            shortcut: false,
            context: true,
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
