//! The log entry of an update.

use serde::Serialize;

use crate::mappo::PpoStats;

/// The metrics of an update.
#[derive(Clone, Debug, Serialize)]
pub struct UpdateLog {
    /// Number of the update, 1-based.
    pub update: usize,
    /// The backbone that it played, where a run has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<String>,
    /// Images per second, including all their rollouts and the update of the networks.
    pub images_per_s: f64,
    /// Seconds until the last rank had played its images: opening, dense answers, rollouts and forks.
    pub play_s: f64,
    /// Seconds until rank 0 had what the other ranks played, after that; 0 for a process on its own.
    pub gather_s: f64,
    /// Seconds for rewards, advantages and the update of the networks.
    pub learn_s: f64,
    /// What rank 0 got from the other ranks, MB.
    pub gathered_mb: f64,
    /// Token-layers of the backbone that this update ran an image, in dense passes: opening, dense answer where it was
    /// not known, rollouts and forks; without the networks' own updates.
    pub dense_passes: f64,
    /// Mean reward of an agent's life.
    pub reward: f64,
    /// The part of `reward` for accuracy (`paper`: prize; `prefix`: price of divergence).
    pub reward_accuracy: f64,
    /// The part of `reward` for efficiency (`paper`: penalty; `prefix`: rent).
    pub reward_efficiency: f64,
    /// Survivors of each stage as a share of N0.
    pub keep_ratio: Vec<f64>,
    /// Token-layers as a share of the dense model's.
    pub cost: f64,
    /// Mean D after the last stage; absent without prefix credit.
    pub divergence: Option<f64>,
    /// Dense minus sampled top-1 of this update, pp; for a backbone without classes, the drift: 100 times the mean of
    /// 1 - cos of its features, percent.
    #[serde(rename = "sampled_drop")]
    pub sampled_accuracy_loss: f64,
    /// Whether the accuracy losses here are drifts, percent: the backbone has no classes.
    #[serde(skip)]
    pub drifts: bool,
    /// The accuracy loss (or drift) that beta follows, see `constraint.rs`; absent without prefix credit, pp.
    #[serde(rename = "estimated_drop")]
    pub estimated_accuracy_loss: Option<f64>,
    /// The price of divergence; absent without prefix credit.
    pub beta: Option<f64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// PPO's metrics; absent with the learner `gumbel`.
    #[serde(flatten)]
    pub ppo: Option<PpoStats>,
}
