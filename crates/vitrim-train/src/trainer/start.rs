//! The actor from which a training starts, if it does not start anew.

use vitrim_prune::Policy;
use vitrim_prune::policy::{Observation, PerceptronSpec, PerceptronWeights, Universal};

use crate::config::TrainConfig;

/// A trained actor.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    observation: Observation,
    actor: PerceptronSpec,
    weights: PerceptronWeights,
    /// A hash of the policy that it is of.
    identity: String,
}

impl From<&Policy> for Start {
    fn from(policy: &Policy) -> Self {
        let identity = policy.identity();
        let Policy { observation, actor, weights, .. } = policy.clone();
        Start { observation, actor, weights, identity }
    }
}

impl From<&Universal> for Start {
    fn from(policy: &Universal) -> Self {
        let identity = policy.identity();
        let Universal { observation, actor, weights, .. } = policy.clone();
        Start { observation, actor, weights, identity }
    }
}

impl Start {
    /// A hash of the policy that it is of.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// `config` with what this actor needs: its hidden layers, and its inputs beside those of `config`.
    #[must_use]
    pub fn widen(&self, config: &TrainConfig) -> TrainConfig {
        let mut wide = config.clone();
        let (own, more) = (&self.observation, &mut wide.actor.observation);
        more.cls_attention |= own.cls_attention;
        more.pair |= own.pair;
        more.pair_tokens |= own.pair_tokens;
        more.relative |= own.relative;
        more.embedding |= own.embedding;
        more.position |= own.position;
        more.stage |= own.stage;
        more.context |= own.context;
        more.layer_norm = if own.embedding { own.layer_norm } else { more.layer_norm };
        wide.actor.hidden.clone_from(&self.actor.hidden);
        wide.actor.activation = self.actor.activation;
        wide.actor.shortcut = self.actor.shortcut;
        wide
    }

    /// Checks that the actor of `config`, of geometry `actor`, has all inputs and the layers of this one.
    ///
    /// # Errors
    /// One line that says what differs.
    pub(super) fn check(&self, config: &TrainConfig, actor: &PerceptronSpec) -> Result<(), String> {
        let (own, names) = (&self.actor, config.actor.observation.scalar_names());
        let sees = |width: usize, own: usize| own == 0 || own == width;
        if own.hidden != actor.hidden || own.activation != actor.activation || own.shortcut != actor.shortcut
        {
            return Err("the layers of the policy to start from are not those of the configuration".into());
        }
        if !sees(actor.dim, own.dim)
            || !sees(actor.positions, own.positions)
            || !sees(actor.stages, own.stages)
            || own.context && !actor.context
            || self.observation.scalar_names().iter().any(|name| !names.contains(name))
        {
            return Err(
                "the policy to start from sees what the configuration's actor does not, or is for a backbone of other \
                 sizes; start from `universal`, or from a policy of this backbone"
                    .into(),
            );
        }
        Ok(())
    }

    /// The weights for the actor of `config`, of geometry `actor`: inputs that this one does not have weigh 0, and the
    /// logit of p_keep is higher by `shift`. [`Start::check`] must have passed.
    pub(super) fn weights_for(
        &self,
        config: &TrainConfig,
        actor: &PerceptronSpec,
        shift: f32,
    ) -> PerceptronWeights {
        let mut weights = PerceptronWeights::zeros(actor);
        let own = &self.weights;
        for (to, from) in [
            (&mut weights.embedding, &own.embedding),
            (&mut weights.position, &own.position),
            (&mut weights.stage, &own.stage),
            (&mut weights.context, &own.context),
        ] {
            if !from.is_empty() {
                to.clone_from(from);
            }
        }
        let (from, to) = (self.observation.scalar_names(), config.actor.observation.scalar_names());
        for (column, name) in from.iter().enumerate() {
            let place = to.iter().position(|other| other == name).expect("checked: it has the scalar");
            for (matrix, own) in [(&mut weights.scalar, &own.scalar), (&mut weights.shortcut, &own.shortcut)]
            {
                let rows = matrix.chunks_exact_mut(to.len()).zip(own.chunks_exact(from.len()));
                rows.for_each(|(row, own)| row[place] = own[column]);
            }
        }
        weights.bias.clone_from(&own.bias);
        weights.layers.clone_from(&own.layers);
        let (_, head) = weights.layers.last_mut().expect("an actor has a head");
        // The logit of p_keep is the second output minus the first.
        head[1] += shift;
        weights
    }
}
