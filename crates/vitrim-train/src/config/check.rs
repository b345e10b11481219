//! Checks of a configuration beyond its types.

use vitrim_prune::policy::Departure;
use vitrim_vit::VitSpec;

use super::{Baseline, LearnerKind, RewardKind, TrainConfig};
use crate::checks::{positive, within};

impl TrainConfig {
    /// Checks the configuration for a run on several backbones, besides [`TrainConfig::check`] for each of them.
    ///
    /// # Errors
    /// One line that names the key and its valid values.
    pub fn check_universal(&self) -> Result<(), String> {
        if !self.actor.observation.fits_any_backbone() {
            return Err(
                "actor.observation: a policy for several backbones must not see embedding, position, stage or context; \
                 use preset universal"
                    .into(),
            );
        }
        if !self.stages.is_empty() {
            return Err(
                "stages: several backbones have stages at shares of their depth; leave stages = []".into()
            );
        }
        if self.learner == LearnerKind::Gumbel {
            return Err("learner = \"gumbel\" trains on one backbone; use mappo".into());
        }
        Ok(())
    }

    /// Checks the values of the configuration, for a backbone of geometry `spec`.
    ///
    /// # Errors
    /// One line that names the key and its valid values.
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
        if observation.position && spec.is_naflex() {
            return Err("actor.observation: a place has no fixed meaning where each image has a grid of its own; set \
                        actor.observation.position=false"
                .into());
        }
        if self.learner == LearnerKind::Gumbel && spec.is_naflex() {
            return Err("learner = \"gumbel\" needs images of one size, and a NaFlex backbone keeps each image's aspect \
                        ratio; use mappo"
                .into());
        }
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
        if observation.relative && !merges {
            return Err("actor.observation.relative needs departure = \"merge\"".into());
        }
        if !observation.embedding && (observation.context || observation.scalars() == 0) {
            return Err(
                "actor.observation.embedding=false needs context=false, and scalars: set relative=true"
                    .into(),
            );
        }
        if self.actor.gate != 0.0 && !(observation.gate_scalar().is_some() && self.actor.shortcut) {
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
            ("constraint.max_drop", constraint.max_accuracy_loss, 0.0, 100.0),
            ("constraint.beta_min", constraint.beta_min, 1e-9, constraint.beta_max),
            ("constraint.beta", constraint.beta, constraint.beta_min, constraint.beta_max),
            ("reward.softening", self.reward.softening, 0.0, 1e3),
            ("reward.keep_ratio", self.reward.keep_ratio, 0.01, 1.0),
            ("advantage.gamma", self.advantage.gamma, 0.0, 1.0),
            ("advantage.lambda", self.advantage.lambda, 0.0, 1.0),
            ("actor.initial_keep", self.actor.initial_keep, 0.01, 0.99),
            ("actor.gate", self.actor.gate, 0.0, 100.0),
            ("actor.initial_loss", self.actor.initial_loss, 0.0, 100.0),
            ("ppo.learning_rate", self.ppo.learning_rate, 0.0, 1.0),
            ("ppo.clip", self.ppo.clip, 1e-6, 1.0),
        ])
    }
}
