//! MAPPO (Yu et al., 2022): one actor shared by all agents, one centralised critic, clipped PPO.

use std::ops::Range;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;
use vitrim_prune::policy::actor::{PerceptronSpec, PerceptronWeights};
use vitrim_random::SplitMix64;

use crate::adam::{ModuleAdam, NamedTensor, find};
use crate::error::Result;
use crate::experience::Experience;
use crate::perceptron::{Inputs, Perceptron};

/// Number of agent-steps per prediction without gradients.
const PREDICTION_CHUNK: usize = 16_384;

/// Settings of one update.
#[derive(Clone, Debug, PartialEq)]
pub struct PpoHyper {
    /// Adam's learning rate for the actor.
    pub actor_lr: f64,
    /// Adam's learning rate for the critic.
    pub critic_lr: f64,
    /// Largest distance of the probability ratio from 1 before the policy loss is clipped.
    pub clip: f64,
    /// Weight of the entropy bonus, per nat.
    pub entropy: f64,
    /// Passes over the experience.
    pub epochs: usize,
    /// Parts of a pass, each a set of whole episodes.
    pub minibatches: usize,
    /// Gradient norm above which a gradient is scaled down, separately for actor and critic.
    pub max_grad_norm: f64,
    /// Approximate KL divergence (nats) of a minibatch above which no further epoch runs.
    pub target_kl: Option<f64>,
}

/// Statistics of one update: means over the minibatches that ran, under CleanRL's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PpoStats {
    /// Clipped surrogate loss.
    pub policy_loss: f64,
    /// Mean squared error of the critic.
    pub value_loss: f64,
    /// Entropy of the policy, nats.
    pub entropy: f64,
    /// Schulman's `mean((ratio - 1) - ln ratio)`, nats.
    pub approx_kl: f64,
    /// Share of agent-steps whose ratio left the clip range.
    pub clip_fraction: f64,
    /// `1 - Var(returns - values) / Var(returns)` before the update; NaN if all returns are equal.
    pub explained_variance: f64,
    /// Norm of the actor's gradient before clipping.
    pub actor_grad_norm: f64,
    /// Norm of the critic's gradient before clipping.
    pub critic_grad_norm: f64,
    /// Epochs that ran.
    pub epochs_run: usize,
}

/// The actor and the critic with their optimisers.
pub struct Learner {
    actor: Network,
    critic: Network,
    /// The device, without gradients.
    device: Device,
}

/// A perceptron and its Adam.
struct Network {
    spec: PerceptronSpec,
    perceptron: Perceptron,
    adam: ModuleAdam,
}

/// The losses' other inputs, `[S]` each.
struct Targets {
    /// Actions, `[S, 1]`.
    actions: Tensor<2, Int>,
    log_probs: Tensor<1>,
    advantages: Tensor<1>,
    returns: Tensor<1>,
}

/// The policy loss and its logged statistics, `[1]` each.
struct PolicyLoss {
    policy_loss: Tensor<1>,
    entropy: Tensor<1>,
    approx_kl: Tensor<1>,
    clip_fraction: Tensor<1>,
}

impl Learner {
    /// A learner that starts from the given weights, on `device`.
    pub fn new(
        actor: (PerceptronSpec, &PerceptronWeights),
        critic: (PerceptronSpec, &PerceptronWeights),
        adam_eps: f32,
        device: &Device,
    ) -> Self {
        let network = |(spec, weights): (PerceptronSpec, &PerceptronWeights)| Network {
            perceptron: Perceptron::from_weights(&spec, weights, &device.clone().autodiff()),
            adam: ModuleAdam::new(adam_eps),
            spec,
        };
        Learner { actor: network(actor), critic: network(critic), device: device.clone().without_autodiff() }
    }

    /// The actor.
    pub fn actor(&self) -> &Perceptron {
        &self.actor.perceptron
    }

    /// One step of the actor's Adam along `gradients` at learning rate `lr`, clipped to `max_grad_norm`; returns the
    /// gradient's norm before clipping.
    pub fn step_actor(&mut self, gradients: GradientsParams, lr: f64, max_grad_norm: f64) -> f64 {
        self.actor.step_along(gradients, lr, max_grad_norm)
    }

    /// The actor's weights.
    pub fn actor_weights(&self) -> PerceptronWeights {
        self.actor.perceptron.weights()
    }

    /// The critic's weights.
    pub fn critic_weights(&self) -> PerceptronWeights {
        self.critic.perceptron.weights()
    }

    /// The critic's prediction for every agent-step, `[S]`.
    pub fn values(&self, experience: &Experience) -> Vec<f32> {
        self.predict(&self.critic.inputs(experience, &experience.critic_scalars, &self.device))
    }

    /// One MAPPO update: `hyper.epochs` passes over `experience` in minibatches of whole episodes, in an order keyed
    /// by `shuffle_seed`. `values: [S]` are the output of [`Learner::values`] for it. The steps of actor and critic
    /// run in parallel and are independent.
    pub fn update(
        &mut self,
        experience: &Experience,
        values: &[f32],
        hyper: &PpoHyper,
        shuffle_seed: u64,
    ) -> PpoStats {
        let mut stats = PpoStats::default();
        if experience.is_empty() {
            return stats;
        }
        let actor_inputs = self.actor.inputs(experience, &experience.actor_scalars, &self.device);
        let critic_inputs = self.critic.inputs(experience, &experience.critic_scalars, &self.device);
        let targets = Targets::new(experience, &self.device);
        stats.explained_variance = explained_variance(values, &experience.returns);

        let mut generator = SplitMix64::new(shuffle_seed);
        let mut order: Vec<usize> = (0..experience.episodes.len()).collect();
        let (mut minibatches_run, mut critic_grad_norm) = (0, 0.0);
        for _ in 0..hyper.epochs {
            generator.shuffle(&mut order);
            let mut too_far = false;
            for minibatch in 0..hyper.minibatches {
                let part = |i: usize| i * order.len() / hyper.minibatches;
                let episodes =
                    order[part(minibatch)..part(minibatch + 1)].iter().map(|&e| &experience.episodes[e]);
                let Some(rows) = rows_of(episodes, &self.device) else { continue };
                let (actor, critic) = (&mut self.actor, &mut self.critic);
                let (policy, value_loss) = rayon::join(
                    || {
                        let logits = actor.perceptron.forward(&actor_inputs.select(&rows)); // [R, 2]
                        let policy = policy_loss(logits, &targets.select(&rows), hyper.clip);
                        let loss =
                            policy.policy_loss.clone() - policy.entropy.clone().mul_scalar(hyper.entropy);
                        stats.actor_grad_norm += actor.step(&loss, hyper.actor_lr, hyper.max_grad_norm);
                        policy
                    },
                    || {
                        let values = critic.perceptron.forward(&critic_inputs.select(&rows)); // [R, 1]
                        let returns = targets.returns.clone().select(0, rows.clone());
                        let value_loss = (values.squeeze_dim::<1>(1) - returns).square().mean();
                        critic_grad_norm += critic.step(&value_loss, hyper.critic_lr, hyper.max_grad_norm);
                        value_loss
                    },
                );

                // One read-back from the device for all figures.
                let PolicyLoss { policy_loss, entropy, approx_kl, clip_fraction } = policy;
                let logged = Tensor::cat(vec![policy_loss, value_loss, entropy, approx_kl, clip_fraction], 0);
                let logged: Vec<f32> = logged.try_into_vec_as().expect("the device gives losses up as f32");
                stats.policy_loss += f64::from(logged[0]);
                stats.value_loss += f64::from(logged[1]);
                stats.entropy += f64::from(logged[2]);
                stats.approx_kl += f64::from(logged[3]);
                stats.clip_fraction += f64::from(logged[4]);
                too_far |= hyper.target_kl.is_some_and(|target| f64::from(logged[3]) > target);
                minibatches_run += 1;
            }
            stats.epochs_run += 1;
            if too_far {
                break;
            }
        }
        stats.critic_grad_norm = critic_grad_norm;
        stats.mean_over(minibatches_run);
        stats
    }

    /// The whole state: both networks' weights, both Adams' moments and step counts.
    pub fn save(&self) -> Vec<NamedTensor> {
        let mut saved = self.actor.named("actor");
        saved.extend(self.critic.named("critic"));
        saved
    }

    /// Restores the output of [`Learner::save`]; training then continues bit for bit.
    ///
    /// # Errors
    /// [`crate::TrainError::LearnerState`] if a tensor is missing or has another shape; the learner is
    /// then unchanged.
    pub fn load(&mut self, saved: &[NamedTensor]) -> Result<()> {
        let actor = self.actor.restored("actor", saved, &self.device)?;
        let critic = self.critic.restored("critic", saved, &self.device)?;
        (self.actor, self.critic) = (actor, critic);
        Ok(())
    }

    fn predict(&self, inputs: &Inputs) -> Vec<f32> {
        let critic = self.critic.perceptron.valid();
        let mut values = Vec::with_capacity(inputs.len());
        for start in (0..inputs.len()).step_by(PREDICTION_CHUNK) {
            let end = inputs.len().min(start + PREDICTION_CHUNK);
            let chunk = critic.forward(&inputs.slice(start..end));
            values.extend(chunk.try_into_vec_as::<f32>().expect("the device gives values up as f32"));
        }
        values
    }
}

impl Network {
    fn inputs(&self, experience: &Experience, scalars: &[f32], device: &Device) -> Inputs {
        Inputs::new(&self.spec, experience, scalars, device)
    }

    /// One step of gradient descent on `loss: [1]`; returns the gradient's norm before clipping.
    fn step(&mut self, loss: &Tensor<1>, lr: f64, max_grad_norm: f64) -> f64 {
        self.step_along(GradientsParams::from_grads(loss.backward(), &self.perceptron), lr, max_grad_norm)
    }

    fn step_along(&mut self, gradients: GradientsParams, lr: f64, max_grad_norm: f64) -> f64 {
        let (perceptron, norm) = self.adam.step(self.perceptron.clone(), gradients, lr, max_grad_norm);
        self.perceptron = perceptron;
        norm
    }

    fn named(&self, prefix: &str) -> Vec<NamedTensor> {
        let shapes = self.spec.tensor_shapes();
        let weights = self.perceptron.weights();
        let mut named: Vec<NamedTensor> = weights
            .named()
            .into_iter()
            .zip(&shapes)
            .map(|((name, values), (_, shape))| (format!("{prefix}.{name}"), shape.clone(), values.clone()))
            .collect();
        named.extend(self.adam.named(&format!("{prefix}.adam"), &shapes));
        named
    }

    fn restored(&self, prefix: &str, saved: &[NamedTensor], device: &Device) -> Result<Network> {
        let shapes = self.spec.tensor_shapes();
        let mut weights = PerceptronWeights::zeros(&self.spec);
        for ((name, values), (_, shape)) in weights.named_mut().into_iter().zip(&shapes) {
            values.copy_from_slice(find(saved, &format!("{prefix}.{name}"), shape)?);
        }
        let mut adam = self.adam.clone();
        adam.restore(&format!("{prefix}.adam"), &shapes, saved, device)?;
        let perceptron = Perceptron::from_weights(&self.spec, &weights, &device.clone().autodiff());
        Ok(Network { spec: self.spec.clone(), perceptron, adam })
    }
}

impl Targets {
    fn new(experience: &Experience, device: &Device) -> Self {
        let s = experience.len();
        let vector = |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), [s]), device);
        let actions: Vec<i32> = experience.actions.iter().map(|&a| i32::from(a)).collect();
        Targets {
            actions: Tensor::from_data(TensorData::new(actions, [s, 1]), device),
            log_probs: vector(&experience.log_probs),
            advantages: vector(&experience.advantages),
            returns: vector(&experience.returns),
        }
    }

    fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Targets {
            actions: self.actions.clone().select(0, rows.clone()),
            log_probs: self.log_probs.clone().select(0, rows.clone()),
            advantages: self.advantages.clone().select(0, rows.clone()),
            returns: self.returns.clone().select(0, rows.clone()),
        }
    }
}

impl PpoStats {
    fn mean_over(&mut self, minibatches: usize) {
        for sum in [
            &mut self.policy_loss,
            &mut self.value_loss,
            &mut self.entropy,
            &mut self.approx_kl,
            &mut self.clip_fraction,
            &mut self.actor_grad_norm,
            &mut self.critic_grad_norm,
        ] {
            *sum /= minibatches.max(1) as f64;
        }
    }
}

/// PPO's clipped surrogate (Schulman et al., 2017, equation 7) over R agent-steps with `logits: [R, 2]`, as means.
fn policy_loss(logits: Tensor<2>, targets: &Targets, clip: f64) -> PolicyLoss {
    let log_probs = log_softmax(logits, 1); // [R, 2]
    let entropy = -(log_probs.clone().exp() * log_probs.clone()).sum_dim(1).mean();
    let new_log_probs = log_probs.gather(1, targets.actions.clone()).squeeze_dim::<1>(1); // [R]
    let log_ratio = new_log_probs - targets.log_probs.clone();
    let ratio = log_ratio.clone().exp();

    // For statistics only: no gradients.
    let (fixed_ratio, fixed_log_ratio) = (ratio.clone().without_autodiff(), log_ratio.without_autodiff());
    let approx_kl = (fixed_ratio.clone().sub_scalar(1.0) - fixed_log_ratio).mean();
    let clip_fraction = fixed_ratio.sub_scalar(1.0).abs().greater_scalar(clip).float().mean();

    let gains = -targets.advantages.clone();
    let clipped = gains.clone() * ratio.clone().clamp(1.0 - clip, 1.0 + clip);
    let policy_loss = (gains * ratio).max_pair(clipped).mean();
    PolicyLoss { policy_loss, entropy, approx_kl, clip_fraction }
}

/// The agent-steps of `episodes`, `[R]`; `None` if there are none.
fn rows_of<'a>(episodes: impl Iterator<Item = &'a Range<usize>>, device: &Device) -> Option<Tensor<1, Int>> {
    let rows: Vec<i32> = episodes.flat_map(|episode| episode.start as i32..episode.end as i32).collect();
    let count = rows.len();
    (count > 0).then(|| Tensor::from_data(TensorData::new(rows, [count]), device))
}

fn explained_variance(values: &[f32], returns: &[f32]) -> f64 {
    let variance = |of: &dyn Fn(usize) -> f64| {
        let n = returns.len() as f64;
        let mean = (0..returns.len()).map(of).sum::<f64>() / n;
        (0..returns.len()).map(|i| (of(i) - mean).powi(2)).sum::<f64>() / n
    };
    let total = variance(&|i| f64::from(returns[i]));
    let residual = variance(&|i| f64::from(returns[i]) - f64::from(values[i]));
    if total > 0.0 { 1.0 - residual / total } else { f64::NAN }
}
