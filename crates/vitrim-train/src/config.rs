//! Training as data: one struct, three presets.

use serde::{Deserialize, Serialize};
use vitrim_prune::policy::{Departure, Nonlinearity, Observation, PerceptronSpec};
use vitrim_vit::VitSpec;

use crate::checks::{positive, within};
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
    /// By gradients through the backbone: straight-through Gumbel gates ([`crate::gumbel`]). The controls that say what
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
    /// d*: the drop of top-1 that may be spent, pp; of a backbone without classes, the drift, percent.
    pub max_drop: f64,
    /// beta at the start.
    pub beta: f64,
    /// Step of log beta.
    pub rate: f64,
    /// Least beta.
    pub beta_min: f64,
    /// Greatest beta.
    pub beta_max: f64,
    /// Updates whose divergence the drop is estimated from.
    pub average_over: usize,
}

impl TrainConfig {
    /// Names of the presets.
    pub const PRESETS: [&str; 5] = ["default", "drop", "paper", "gumbel", "dynamicvit"];

    /// The preset of that name, one of [`TrainConfig::PRESETS`].
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::default_preset()),
            "drop" => Some(Self::drop_preset()),
            "paper" => Some(Self::paper_preset()),
            "gumbel" => Some(Self::gumbel_preset()),
            "dynamicvit" => Some(Self::dynamicvit_preset()),
            _ => None,
        }
    }

    /// Agents that merge; rent, complete-prefix credit, several rollouts an image (design.md section 2).
    pub fn default_preset() -> Self {
        TrainConfig {
            updates: 300,
            images_per_update: 64,
            rollouts_per_image: 4,
            stages: Vec::new(),
            departure: Departure::Merge,
            learner: LearnerKind::Mappo,
            seed: 0,
            checkpoint_every: 25,
            reward: RewardConfig {
                kind: RewardKind::Prefix,
                prize: 24.0,
                keep_ratio: 0.7,
                softening: 0.1,
                reference_images: 512,
            },
            advantage: AdvantageConfig {
                gamma: 1.0,
                lambda: 1.0,
                baseline: Baseline::LeaveOneOut,
                scaling: Scaling::Rms,
                normalize_returns: true,
            },
            actor: ActorConfig {
                observation: Observation {
                    layer_norm: true,
                    position: false,
                    stage: true,
                    cls_attention: true,
                    pair: true,
                    pair_tokens: true,
                    context: true,
                },
                hidden: vec![16, 16],
                activation: Nonlinearity::Gelu,
                shortcut: true,
                head_gain: 0.01,
                initial_keep: 0.6,
                gate: 4.0,
            },
            critic: CriticConfig {
                layer_norm: true,
                progress: true,
                others_kept: true,
                hidden: vec![32],
                activation: Nonlinearity::Gelu,
            },
            ppo: PpoConfig {
                learning_rate: 3e-3,
                learning_rate_end: 3e-4,
                adam_eps: 1e-5,
                clip: 0.2,
                entropy: 0.002,
                entropy_end: 0.0,
                epochs: 2,
                minibatches: 6,
                max_grad_norm: 0.5,
                target_kl: 0.02,
            },
            constraint: ConstraintConfig {
                max_drop: 0.4,
                beta: 1.5,
                rate: 0.01,
                beta_min: 0.05,
                beta_max: 20.0,
                average_over: 10,
            },
        }
    }

    /// The default preset's game with agents that are dropped, not merged.
    pub fn drop_preset() -> Self {
        let default = Self::default_preset();
        TrainConfig {
            departure: Departure::Drop,
            reward: RewardConfig { softening: 0.0, ..default.reward },
            actor: ActorConfig {
                observation: Observation {
                    position: true,
                    pair: false,
                    pair_tokens: false,
                    context: false,
                    ..default.actor.observation
                },
                hidden: vec![32, 32],
                shortcut: false,
                initial_keep: 0.9,
                gate: 0.0,
                ..default.actor
            },
            critic: CriticConfig { hidden: vec![64, 64], ..default.critic },
            ppo: PpoConfig {
                learning_rate: 1e-3,
                learning_rate_end: 1e-4,
                entropy: 0.003,
                epochs: 3,
                minibatches: 4,
                ..default.ppo
            },
            constraint: ConstraintConfig { beta: 0.5, rate: 0.05, average_over: 20, ..default.constraint },
            ..default
        }
    }

    /// The default preset's agents, objective and images, learning by straight-through Gumbel gates.
    pub fn gumbel_preset() -> Self {
        TrainConfig { learner: LearnerKind::Gumbel, rollouts_per_image: 1, ..Self::default_preset() }
    }

    /// A predictor of the default actor's size that learns as DynamicViT's does (Rao et al., 2021): tokens are dropped,
    /// the loss is distillation and the keep ratio's.
    pub fn dynamicvit_preset() -> Self {
        let (default, drop) = (Self::default_preset(), Self::drop_preset());
        // Its predictor sees each token and what is common to all of an image.
        let observation = Observation { position: false, context: true, ..drop.actor.observation };
        TrainConfig {
            learner: LearnerKind::Gumbel,
            rollouts_per_image: 1,
            reward: RewardConfig { kind: RewardKind::Ratio, ..drop.reward },
            actor: ActorConfig { observation, hidden: default.actor.hidden, ..drop.actor },
            ..drop
        }
    }

    /// The seed paper's game, precisely (design.md section 1).
    pub fn paper_preset() -> Self {
        let observation = Observation {
            layer_norm: false,
            position: true,
            stage: false,
            cls_attention: false,
            pair: false,
            pair_tokens: false,
            context: false,
        };
        let default = Self::drop_preset();
        TrainConfig {
            updates: 20_000,
            images_per_update: 64,
            rollouts_per_image: 1,
            reward: RewardConfig { kind: RewardKind::Paper, ..default.reward },
            advantage: AdvantageConfig {
                gamma: 0.99,
                lambda: 0.95,
                baseline: Baseline::Critic,
                scaling: Scaling::Normalize,
                normalize_returns: false,
            },
            actor: ActorConfig {
                observation,
                hidden: vec![64, 256, 64],
                activation: Nonlinearity::Tanh,
                shortcut: false,
                head_gain: 0.01,
                initial_keep: 0.5,
                gate: 0.0,
            },
            critic: CriticConfig {
                layer_norm: false,
                progress: false,
                others_kept: false,
                hidden: vec![64, 256, 64],
                activation: Nonlinearity::Tanh,
            },
            ppo: PpoConfig {
                learning_rate: 5e-6,
                learning_rate_end: 5e-6,
                adam_eps: 1e-5,
                clip: 0.2,
                entropy: 0.01,
                entropy_end: 0.01,
                epochs: 4,
                minibatches: 4, // 64 episodes in minibatches of 16
                max_grad_norm: 10.0,
                target_kl: 0.0,
            },
            ..default
        }
    }

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

    /// Checks what no type can say, for a backbone of geometry `spec`.
    ///
    /// # Errors
    /// One line that names the key and what it must be.
    pub fn check(&self, spec: &VitSpec) -> Result<(), String> {
        let stages = self.stages(spec);
        positive(&[
            ("updates", self.updates),
            ("images_per_update", self.images_per_update),
            ("rollouts_per_image", self.rollouts_per_image),
            ("checkpoint_every", self.checkpoint_every),
            ("ppo.epochs", self.ppo.epochs),
            ("ppo.minibatches", self.ppo.minibatches),
            ("constraint.average_over", self.constraint.average_over),
            ("reward.reference_images", self.reward.reference_images),
        ])?;
        if stages.is_empty()
            || stages.windows(2).any(|w| w[0] >= w[1])
            || stages.iter().any(|l| *l >= spec.depth)
        {
            return Err(format!("stages = {stages:?} must ascend below the depth of {} blocks", spec.depth));
        }
        let (merges, observation) = (self.departure == Departure::Merge, &self.actor.observation);
        if stages[0] == 0 && !merges && observation.cls_attention {
            return Err(
                "stages: no attention runs before block 0; set actor.observation.cls_attention=false".into(),
            );
        }
        if merges && stages.contains(&(spec.depth - 1)) {
            let last = spec.depth - 1;
            return Err(format!(
                "stages = {stages:?}: no attention runs after block {last}, so that merging gains nothing"
            ));
        }
        if (observation.pair || observation.pair_tokens) && !merges {
            return Err("actor.observation.pair and pair_tokens need departure = \"merge\"".into());
        }
        if self.actor.gate != 0.0 && !(observation.pair && self.actor.shortcut) {
            return Err("actor.gate needs actor.observation.pair=true and actor.shortcut=true".into());
        }
        if self.reward.kind == RewardKind::Paper && spec.num_classes == 0 {
            return Err(
                "reward.kind = \"paper\" rewards right classes, and the backbone has none; use prefix".into(),
            );
        }
        match (self.learner, self.reward.kind) {
            (LearnerKind::Gumbel, RewardKind::Paper) => {
                return Err(
                    "reward.kind = \"paper\" has no gradient; use prefix or ratio with learner = \"gumbel\""
                        .into(),
                );
            }
            (LearnerKind::Gumbel, _) if spec.num_classes == 0 => {
                return Err(
                    "learner = \"gumbel\" compares logits, and the backbone has no classes; use mappo".into(),
                );
            }
            (LearnerKind::Mappo, RewardKind::Ratio) => {
                return Err(
                    "reward.kind = \"ratio\" is a loss of whole batches; use learner = \"gumbel\"".into()
                );
            }
            _ => {}
        }
        let reinforced = self.learner == LearnerKind::Mappo;
        if reinforced && self.advantage.baseline == Baseline::LeaveOneOut && self.rollouts_per_image < 2 {
            return Err(
                "rollouts_per_image must be at least 2 for advantage.baseline = \"leave-one-out\"".into()
            );
        }
        for (name, hidden) in [("actor.hidden", &self.actor.hidden), ("critic.hidden", &self.critic.hidden)] {
            if hidden.is_empty() || hidden.contains(&0) {
                return Err(format!("{name} = {hidden:?} must name at least one positive width"));
            }
        }
        let constraint = &self.constraint;
        within(&[
            ("constraint.max_drop", constraint.max_drop, 0.0, 100.0),
            ("constraint.beta_min", constraint.beta_min, 1e-9, constraint.beta_max),
            ("constraint.beta", constraint.beta, constraint.beta_min, constraint.beta_max),
            ("reward.softening", self.reward.softening, 0.0, 1e3),
            ("reward.keep_ratio", self.reward.keep_ratio, 0.01, 1.0),
            ("advantage.gamma", self.advantage.gamma, 0.0, 1.0),
            ("advantage.lambda", self.advantage.lambda, 0.0, 1.0),
            ("actor.initial_keep", self.actor.initial_keep, 0.01, 0.99),
            ("actor.gate", self.actor.gate, 0.0, 100.0),
            ("ppo.learning_rate", self.ppo.learning_rate, 0.0, 1.0),
            ("ppo.clip", self.ppo.clip, 1e-6, 1.0),
        ])
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
