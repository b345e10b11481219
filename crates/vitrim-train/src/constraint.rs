//! The accuracy target as a constraint: beta, the price of divergence, follows the sampled accuracy loss.
//!
//! An update's accuracy loss is a difference of two counts over few images: averaged over 20 updates of 64 images, it
//! still has a standard error of 0.4 pp, as large as a usual target, and beta would follow the noise (measured on
//! CIFAR-10: beta varied between 0.4 and 2.3). The divergence D of the same rollouts is far less noisy, and the
//! accuracy loss grows with it. The accuracy loss is therefore estimated as D of the last updates times the ratio of
//! accuracy loss to D over the whole run.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::ConstraintConfig;

/// Changes log beta in proportion to the difference between the estimated accuracy loss and the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    log_beta: f64,
    /// D of the last updates, nats.
    recent: VecDeque<f64>,
    /// Sum of the sampled accuracy losses of all updates, pp.
    #[serde(rename = "drops")]
    accuracy_losses: f64,
    /// Sum of D of all updates, nats.
    divergences: f64,
}

impl Constraint {
    /// A constraint that starts at `config.beta`.
    pub fn new(config: &ConstraintConfig) -> Self {
        Constraint {
            log_beta: config.beta.ln(),
            recent: VecDeque::new(),
            accuracy_losses: 0.0,
            divergences: 0.0,
        }
    }

    /// The current beta.
    pub fn beta(&self) -> f64 {
        self.log_beta.exp()
    }

    /// Estimated accuracy loss over the last updates, pp; 0 before the first update.
    pub fn estimated_accuracy_loss(&self) -> f64 {
        if self.divergences <= 0.0 {
            return 0.0;
        }
        let recent = self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64;
        recent * self.accuracy_losses / self.divergences
    }

    /// Updates beta after an update whose rollouts lost `accuracy_loss` pp at a mean divergence of `divergence` nats:
    /// log beta += rate clip((d - d*) / max(d*, 0.4 pp), -2, 2), within its bounds; d is the estimated accuracy loss.
    pub fn observe(&mut self, accuracy_loss: f64, divergence: f64, config: &ConstraintConfig) {
        self.accuracy_losses += accuracy_loss;
        self.divergences += divergence;
        self.recent.push_back(divergence);
        while self.recent.len() > config.average_over {
            self.recent.pop_front();
        }
        let error =
            (self.estimated_accuracy_loss() - config.max_accuracy_loss) / config.max_accuracy_loss.max(0.4);
        self.log_beta += config.rate * error.clamp(-2.0, 2.0);
        self.log_beta = self.log_beta.clamp(config.beta_min.ln(), config.beta_max.ln());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    #[test]
    fn beta_rises_above_the_target_and_falls_below_it() {
        let config = ConstraintConfig { max_accuracy_loss: 0.4, ..TrainConfig::default_preset().constraint };
        let mut constraint = Constraint::new(&config);
        constraint.observe(0.8, 0.01, &config);
        assert!((constraint.beta() / config.beta - config.rate.exp()).abs() < 1e-9, "one target above");
        let high = constraint.beta();
        for _ in 0..40 {
            constraint.observe(0.0, 0.001, &config);
        }
        assert!(constraint.beta() < high);
        for _ in 0..2000 {
            constraint.observe(-5.0, 0.001, &config);
        }
        assert!((constraint.beta() - config.beta_min).abs() < 1e-9, "bounded below");
    }

    #[test]
    fn the_estimate_follows_divergence_not_the_noise_of_counts() {
        let config = TrainConfig::default_preset().constraint;
        let mut constraint = Constraint::new(&config);
        // 50 pp of accuracy loss per nat, with alternating noise of 2 pp; D falls from 0.02 to 0.01 after half of the
        // updates.
        for i in 0..400 {
            let divergence = if i < 200 { 0.02 } else { 0.01 };
            let noise = if i % 2 == 0 { 2.0 } else { -2.0 };
            constraint.observe(50.0 * divergence + noise, divergence, &config);
        }
        assert!(
            (constraint.estimated_accuracy_loss() - 0.5).abs() < 0.01,
            "{}",
            constraint.estimated_accuracy_loss()
        );
    }
}
