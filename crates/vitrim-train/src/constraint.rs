//! The accuracy target as a constraint: beta, the price of divergence, follows the sampled drop.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::ConstraintConfig;

/// Moves log beta against the distance of the averaged sampled drop from the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    log_beta: f64,
    /// Sampled drops of the last updates, pp.
    drops: VecDeque<f64>,
}

impl Constraint {
    /// At `config.beta`.
    pub fn new(config: &ConstraintConfig) -> Self {
        Constraint { log_beta: config.beta.ln(), drops: VecDeque::new() }
    }

    /// beta.
    pub fn beta(&self) -> f64 {
        self.log_beta.exp()
    }

    /// Mean sampled drop over the last updates, pp; 0 before the first.
    pub fn average_drop(&self) -> f64 {
        self.drops.iter().sum::<f64>() / self.drops.len().max(1) as f64
    }

    /// After an update whose rollouts dropped `drop` pp:
    /// log beta += rate clip((d - d*) / max(d*, 0.4 pp), -2, 2), within its bounds.
    pub fn observe(&mut self, drop: f64, config: &ConstraintConfig) {
        self.drops.push_back(drop);
        while self.drops.len() > config.average_over {
            self.drops.pop_front();
        }
        let error = (self.average_drop() - config.max_drop) / config.max_drop.max(0.4);
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
        let config = ConstraintConfig { max_drop: 0.4, ..TrainConfig::default_preset().constraint };
        let mut constraint = Constraint::new(&config);
        constraint.observe(0.8, &config);
        assert!((constraint.beta() / config.beta - (config.rate).exp()).abs() < 1e-9, "one target above");
        let high = constraint.beta();
        for _ in 0..40 {
            constraint.observe(0.0, &config);
        }
        assert!(constraint.beta() < high);
        for _ in 0..2000 {
            constraint.observe(-5.0, &config);
        }
        assert!((constraint.beta() - config.beta_min).abs() < 1e-9, "bounded below");
    }
}
