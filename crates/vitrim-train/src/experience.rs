//! The experience of one update: every agent-step, in flat arrays.

use std::ops::Range;

/// S agent-steps of E episodes. An agent-step is one decision of one agent that was alive.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    /// Residual-stream embeddings, `[S, D]`; empty if neither actor nor critic sees them, as are the contexts.
    pub tokens: Vec<f32>,
    /// Grid position of each agent, `[S]`.
    pub positions: Vec<u32>,
    /// 0-based stage, `[S]`.
    pub stages: Vec<u32>,
    /// The actor's scalar inputs, `[S, actor.scalars]`.
    pub actor_scalars: Vec<f32>,
    /// The critic's scalar inputs, `[S, critic.scalars]`.
    pub critic_scalars: Vec<f32>,
    /// Row of `contexts` that holds each agent-step's context, `[S]`.
    pub context_of: Vec<u32>,
    /// Context vectors (class token, or survivors' mean), one for each episode and stage, `[C, D]`.
    pub contexts: Vec<f32>,
    /// 1 keep, 0 prune, `[S]`.
    pub actions: Vec<u8>,
    /// Log-probability of the action when it was taken, `[S]`.
    pub log_probs: Vec<f32>,
    /// Advantages, scaled for the policy loss, `[S]`.
    pub advantages: Vec<f32>,
    /// Targets of the critic, `[S]`.
    pub returns: Vec<f32>,
    /// Agent-steps of each episode (one rollout of one image), `[E]`, in order, covering `0..S`.
    pub episodes: Vec<Range<usize>>,
}

impl Experience {
    /// S, the number of agent-steps.
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Whether there is no agent-step.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}
