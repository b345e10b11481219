//! Configurations by name.

use vitrim_prune::policy::{Departure, Nonlinearity, Observation};

use super::{
    ActorConfig, AdvantageConfig, Baseline, ConstraintConfig, CriticConfig, Forks, LearnerKind, PpoConfig,
    RewardConfig, RewardKind, Scaling, TrainConfig,
};

impl TrainConfig {
    /// Names of the presets.
    pub const PRESETS: [&str; 6] = ["default", "universal", "drop", "paper", "gumbel", "dynamicvit"];

    /// The preset called `name`, one of [`TrainConfig::PRESETS`].
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::default_preset()),
            "universal" => Some(Self::universal_preset()),
            "drop" => Some(Self::drop_preset()),
            "paper" => Some(Self::paper_preset()),
            "gumbel" => Some(Self::gumbel_preset()),
            "dynamicvit" => Some(Self::dynamicvit_preset()),
            _ => None,
        }
    }

    /// Agents that merge; rent, credit for the final D, several rollouts per image (docs/architecture.md).
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
                forks: Forks::Nowhere,
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
                    embedding: true,
                    layer_norm: true,
                    position: false,
                    stage: true,
                    cls_attention: true,
                    pair: true,
                    pair_tokens: true,
                    context: true,
                    relative: false,
                },
                hidden: vec![16, 16],
                activation: Nonlinearity::Gelu,
                shortcut: true,
                head_gain: 0.01,
                initial_keep: 0.6,
                gate: 4.0,
                initial_loss: 5.0,
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
                max_accuracy_loss: 0.4,
                beta: 1.5,
                rate: 0.01,
                beta_min: 0.05,
                beta_max: 20.0,
                average_over: 10,
            },
        }
    }

    /// The default preset's game with an actor that fits every backbone.
    pub fn universal_preset() -> Self {
        let default = Self::default_preset();
        let observation = Observation {
            embedding: false,
            layer_norm: true,
            position: false,
            stage: false,
            cls_attention: false,
            pair: false,
            pair_tokens: false,
            context: false,
            relative: true,
        };
        TrainConfig { actor: ActorConfig { observation, ..default.actor }, ..default }
    }

    /// The default preset's game with agents that are dropped instead of merged.
    pub fn drop_preset() -> Self {
        let default = Self::default_preset();
        TrainConfig {
            departure: Departure::Drop,
            reward: RewardConfig { softening: 0.0, forks: Forks::EveryStage, ..default.reward },
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
                initial_loss: 0.0,
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

    /// The default preset's agents, objective and images, trained with straight-through Gumbel gates.
    pub fn gumbel_preset() -> Self {
        TrainConfig { learner: LearnerKind::Gumbel, rollouts_per_image: 1, ..Self::default_preset() }
    }

    /// A predictor of the default actor's size that is trained like DynamicViT (Rao et al., 2021): tokens are
    /// dropped, and the loss is distillation plus the keep ratio's loss.
    pub fn dynamicvit_preset() -> Self {
        let (default, drop) = (Self::default_preset(), Self::drop_preset());
        // DynamicViT's predictor sees each token and a feature common to all tokens of an image.
        let observation = Observation { position: false, context: true, ..drop.actor.observation };
        TrainConfig {
            learner: LearnerKind::Gumbel,
            rollouts_per_image: 1,
            reward: RewardConfig { kind: RewardKind::Ratio, ..drop.reward },
            actor: ActorConfig { observation, hidden: default.actor.hidden, ..drop.actor },
            ..drop
        }
    }

    /// The game of arXiv 2503.23459 (section 3), without changes.
    pub fn paper_preset() -> Self {
        let observation = Observation {
            embedding: true,
            layer_norm: false,
            position: true,
            stage: false,
            cls_attention: false,
            pair: false,
            pair_tokens: false,
            context: false,
            relative: false,
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
                initial_loss: 0.0,
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
}
