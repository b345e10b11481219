//! One update of the game, in order: collect, reward, advantage, update, log.

mod learning;
mod update_log;

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vitrim_prune::policy::{BackboneId, PerceptronSpec, PerceptronWeights};
use vitrim_prune::{ImageKey, LearnedPruner, Policy, Pruner, ReadOut};
use vitrim_ranks::Ranks;
use vitrim_vit::{Backbone, Output, PixelBatch, Site, Tensors, VitSpec};

pub use update_log::UpdateLog;

use crate::adam::NamedTensor;
use crate::burn_vit::BurnVit;
use crate::config::{LearnerKind, RewardConfig, RewardKind, TrainConfig};
use crate::constraint::Constraint;
use crate::error::{Result, TrainError};
use crate::mappo::{Learner, PpoHyper};
use crate::perceptron::orthogonal_init;
use crate::rewards::soften;
use crate::rollout::{DenseAnswers, RolloutStart};
use learning::{Played, mean};

/// A smaller g_ref would make beta meaningless: random pruning then changes nothing.
const LEAST_REFERENCE: f64 = 1e-4;

/// Images of one update; of several ranks, the share of this one, which may be none.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// Pixels, `[I, 3, H, W]`.
    pub pixels: PixelBatch<'a>,
    /// Labels, `[I]`; a missing one is replaced by the dense model's prediction.
    pub labels: &'a [Option<u32>],
    /// Keys of the images, `[I]`.
    pub keys: &'a [ImageKey],
}

/// Measurements on an image before the first update, see [`Trainer::begin`].
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// g(D) of random pruning.
    pub divergence: f64,
    /// Dissimilarity of the first stage's agents and their partners ([`Observation::pair`]'s first scalar); empty
    /// without a gate.
    ///
    /// [`Observation::pair`]: vitrim_prune::policy::Observation::pair
    pub unlikeness: Vec<f32>,
}

/// The contents of a checkpoint besides the learner's tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Updates done.
    pub update: usize,
    /// g_ref, see [`PrefixRewards`].
    pub reference: f64,
    /// Running root mean square of the returns.
    pub return_scale: f64,
    /// beta, and the accuracy losses behind it.
    pub constraint: Constraint,
}

/// The game on one frozen backbone.
pub struct Trainer<'a, B: Backbone> {
    backbone: &'a B,
    /// The backbone with gradients but frozen weights, for the learner `gumbel`.
    differentiable: Option<BurnVit>,
    id: BackboneId,
    config: TrainConfig,
    device: Device,
    sites: Vec<Site>,
    learner: Learner,
    /// The actor of the last update, ready to run.
    pruner: LearnedPruner,
    state: TrainerState,
    dense_answers: DenseAnswers,
    ranks: Ranks,
}

impl<'a, B: Backbone> Trainer<'a, B> {
    /// Starts with newly initialised networks. `weights` are the backbone's, which the learner `gumbel` needs.
    ///
    /// # Errors
    /// [`TrainError::Config`] if `config` does not fit the backbone, or needs weights that are not given.
    pub fn new(
        backbone: &'a B,
        id: BackboneId,
        weights: Option<&Tensors>,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Self> {
        let spec = backbone.spec();
        config.check(spec).map_err(TrainError::Config)?;
        let differentiable = match (config.learner, weights) {
            (LearnerKind::Mappo, _) => None,
            (LearnerKind::Gumbel, Some(weights)) => {
                Some(BurnVit::new(spec, weights, &device.clone().autodiff())?.no_grad())
            }
            (LearnerKind::Gumbel, None) => {
                return Err(TrainError::Config("learner = \"gumbel\" needs the backbone's weights".into()));
            }
        };
        let learner = fresh(config, spec, None, device);
        let pruner = LearnedPruner::new(spec, &policy_of(&learner, config, spec, id.clone()));
        Ok(Trainer {
            backbone,
            differentiable,
            device: device.clone(),
            sites: pruner.sites(spec).into_iter().map(|(site, _)| site).collect(),
            pruner,
            id,
            learner,
            state: TrainerState {
                update: 0,
                reference: 1.0,
                return_scale: 1.0,
                constraint: Constraint::new(&config.constraint),
            },
            config: config.clone(),
            dense_answers: DenseAnswers::default(),
            ranks: Ranks::alone(),
        })
    }

    /// The same trainer as one of `ranks`, each of which is given its share of the images ([`Ranks::share`]).
    #[must_use]
    pub fn among(self, ranks: &Ranks) -> Self {
        Trainer { ranks: ranks.clone(), ..self }
    }

    /// Updates done.
    pub fn updates_done(&self) -> usize {
        self.state.update
    }

    /// Whether [`Trainer::begin`] must be called before the first update.
    pub fn needs_probes(&self) -> bool {
        let gated = self.config.actor.gate > 0.0;
        (self.follows_target() || gated) && self.state.update == 0
    }

    /// Measures each of `images` before the first update; returns the measurements of all ranks' images.
    ///
    /// # Errors
    /// Errors of the backbone, or of another rank.
    pub fn probe(&mut self, images: Images<'_>) -> Result<Vec<Probe>> {
        let RewardConfig { keep_ratio, softening, .. } = self.config.reward;
        let (mut random, mut unlikeness, mut dense) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(start) = self.open(images)? {
            let blocks = self.policy().drop_stages();
            random = start.random_divergences(keep_ratio, &blocks, self.config.seed, images.keys)?;
            let gated = self.config.actor.gate > 0.0;
            unlikeness = if gated { start.unlikeness(&self.pruner)? } else { vec![Vec::new(); random.len()] };
            dense = start.dense.values;
        }
        let (all, _) = self.ranks.gather(((images.keys.to_vec(), dense), (random, unlikeness)))?;
        let mut probes = Vec::new();
        for ((keys, dense), (random, unlikeness)) in all {
            self.dense_answers.keep(&keys, &Output { width: dense.len() / keys.len().max(1), values: dense });
            let probe =
                |(divergence, unlikeness)| Probe { divergence: soften(divergence, softening), unlikeness };
            probes.extend(random.into_iter().zip(unlikeness).map(probe));
        }
        Ok(probes)
    }

    /// Sets g_ref, and the position of a new actor's gate by its share (`actor.initial_keep`), from the `probes` of the
    /// reference images.
    pub fn begin(&mut self, probes: &[Probe]) {
        self.state.reference = mean(probes.iter().map(|probe| probe.divergence)).max(LEAST_REFERENCE);
        self.place_gate(probes, self.config.actor.initial_keep);
    }

    /// Starts the actor anew with a gate at which a share of `keep` of the first stage's agents of the `probes` tends to
    /// stay; without a gate, or agents, it stays as it is.
    pub fn place_gate(&mut self, probes: &[Probe], keep: f64) {
        let mut unlikeness: Vec<f32> =
            probes.iter().flat_map(|probe| probe.unlikeness.iter().copied()).collect();
        if !unlikeness.is_empty() {
            unlikeness.sort_by(f32::total_cmp);
            let leaving = (1.0 - keep) * unlikeness.len() as f64;
            let at = unlikeness[(leaving as usize).min(unlikeness.len() - 1)];
            self.learner = fresh(&self.config, self.backbone.spec(), Some(at), &self.device);
            self.refresh();
        }
    }

    /// What one sampled rollout of each image of all ranks loses: 1 if its answer differs from the dense model's, otherwise
    /// 0; for a backbone without classes, the drift 1 - cos.
    ///
    /// # Errors
    /// Errors of the backbone, or of another rank.
    pub fn sampled_losses(&mut self, images: Images<'_>) -> Result<Vec<f64>> {
        let mut own = Vec::new();
        if let Some(start) = self.open(images)? {
            let key = [self.config.seed, u64::MAX, 0];
            let rollout = start.play(&self.pruner, key, images.keys, 0..0)?;
            own = if self.backbone.spec().num_classes == 0 {
                rollout.divergences.last().cloned().unwrap_or_default()
            } else {
                let pairs = start.dense.argmax().into_iter().zip(&rollout.predictions);
                pairs.map(|(dense, pruned)| f64::from(u8::from(dense != *pruned))).collect()
            };
        }
        Ok(self.ranks.gather(own)?.0.concat())
    }

    /// Plays `images`, learns from those of all ranks, and returns the metrics.
    ///
    /// # Errors
    /// Errors of the backbone, a label for which the backbone has no class, or an error of another rank.
    pub fn update(&mut self, images: Images<'_>) -> Result<UpdateLog> {
        let started = Instant::now();
        let spec = self.backbone.spec();
        let beta = self.state.constraint.beta();
        let (learning_rate, entropy) = self.config.ppo.schedule(self.state.update, self.config.updates);
        let hyper = PpoHyper {
            actor_lr: learning_rate,
            critic_lr: learning_rate,
            clip: self.config.ppo.clip,
            entropy,
            epochs: self.config.ppo.epochs,
            minibatches: self.config.ppo.minibatches,
            max_grad_norm: self.config.ppo.max_grad_norm,
            target_kl: (self.config.ppo.target_kl > 0.0).then_some(self.config.ppo.target_kl),
        };
        let Played {
            images,
            parts,
            keep_ratio,
            cost,
            divergence,
            dense_right,
            right,
            dense_passes,
            ppo,
            play_s,
            gather_s,
            gathered_mb,
        } = match self.config.learner {
            LearnerKind::Mappo => self.reinforce(images, &hyper)?,
            LearnerKind::Gumbel => self.descend(images, &hyper)?,
        };

        // Follow the accuracy target, and log.
        let sampled_accuracy_loss = match divergence {
            Some(divergence) if spec.num_classes == 0 => 100.0 * divergence,
            _ => 100.0 * (dense_right - right),
        };
        let follows_target = self.follows_target();
        if let (Some(divergence), true) = (divergence, follows_target) {
            self.state.constraint.observe(sampled_accuracy_loss, divergence, &self.config.constraint);
        }
        self.state.update += 1;
        self.refresh();
        let seconds = started.elapsed().as_secs_f64();
        Ok(UpdateLog {
            update: self.state.update,
            images_per_s: images as f64 / seconds,
            play_s,
            gather_s,
            learn_s: seconds - play_s - gather_s,
            gathered_mb,
            dense_passes,
            reward: parts.accuracy + parts.efficiency,
            reward_accuracy: parts.accuracy,
            reward_efficiency: parts.efficiency,
            keep_ratio,
            cost,
            divergence,
            sampled_accuracy_loss,
            drifts: spec.num_classes == 0,
            estimated_accuracy_loss: follows_target.then(|| self.state.constraint.estimated_accuracy_loss()),
            beta: follows_target.then_some(beta),
            learning_rate,
            ppo,
        })
    }

    /// Whether beta follows the accuracy target.
    fn follows_target(&self) -> bool {
        self.config.reward.kind == RewardKind::Prefix
    }

    /// The current policy, not calibrated: `paper` samples, `prefix` keeps tokens with p_keep > 1/2.
    pub fn policy(&self) -> Policy {
        policy_of(&self.learner, &self.config, self.backbone.spec(), self.id.clone())
    }

    /// Everything that the next update depends on.
    pub fn state(&self) -> (&TrainerState, &Learner) {
        (&self.state, &self.learner)
    }

    /// Continues from the output of [`Trainer::state`].
    ///
    /// # Errors
    /// If the learner's tensors do not fit.
    pub fn restore(&mut self, state: TrainerState, learner: &[NamedTensor]) -> Result<()> {
        self.learner.load(learner)?;
        self.state = state;
        self.refresh();
        Ok(())
    }

    fn refresh(&mut self) {
        self.pruner = LearnedPruner::new(self.backbone.spec(), &self.policy());
    }

    /// The images at the first stage, and what the dense model says of them; `None` if this rank has none.
    fn open(&self, images: Images<'_>) -> Result<Option<RolloutStart<'a, B>>> {
        let first = self.pruner.sites(self.backbone.spec())[0];
        let open =
            || RolloutStart::open(self.backbone, images.pixels, images.keys, first, &self.dense_answers);
        (!images.keys.is_empty()).then(open).transpose()
    }

    /// Checksum of the policy, the same on all ranks.
    fn checksum(&self) -> u32 {
        let weights = self.learner.actor_weights();
        let values = weights.named().into_iter().flat_map(|(_, values)| values);
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        crc32c::crc32c(&bytes)
    }
}

/// Newly initialised networks. `gate`: the dissimilarity at which an agent is as likely to stay as to leave.
fn fresh(config: &TrainConfig, spec: &VitSpec, gate: Option<f32>, device: &Device) -> Learner {
    let keep = config.actor.initial_keep;
    let slope = config.actor.gate as f32;
    let logit = gate.map_or_else(|| (keep / (1.0 - keep)).ln() as f32, |at| -slope * at);
    let (actor, critic) = (config.actor_spec(spec), config.critic_spec(spec));
    // Initialised without the context; its weights start at 0.
    let blind = PerceptronSpec { context: false, ..actor.clone() };
    let mut actor_weights = orthogonal_init(&blind, config.seed, config.actor.head_gain, &[0.0, logit]);
    actor_weights.context = PerceptronWeights::zeros(&actor).context;
    if gate.is_some() {
        // The logit of p_keep is the second output minus the first.
        let unlikeness = actor.scalars + config.actor.observation.first_of_pair();
        actor_weights.shortcut[unlikeness] = slope;
    }
    let critic_weights = orthogonal_init(&critic, config.seed ^ 0x00c8_171c, 1.0, &[0.0]);
    Learner::new((actor, &actor_weights), (critic, &critic_weights), config.ppo.adam_eps, device)
}

fn policy_of(learner: &Learner, config: &TrainConfig, spec: &VitSpec, backbone: BackboneId) -> Policy {
    Policy {
        backbone,
        stages: config.stages(spec),
        departure: config.departure,
        observation: config.actor.observation,
        actor: config.actor_spec(spec),
        weights: learner.actor_weights(),
        read_out: match config.reward.kind {
            RewardKind::Paper => ReadOut::Sample { seed: config.seed },
            RewardKind::Prefix | RewardKind::Ratio => ReadOut::Threshold { threshold: 0.5 },
        },
        calibration: None,
    }
}

/// Class of each image: its label, otherwise the dense model's prediction.
fn labels(labels: &[Option<u32>], dense: &[usize], classes: usize) -> Result<Vec<usize>> {
    let with_dense = labels.iter().zip(dense);
    with_dense
        .map(|(label, dense)| match label {
            None => Ok(*dense),
            Some(label) if (*label as usize) < classes => Ok(*label as usize),
            Some(label) => Err(TrainError::Label { label: *label, classes }),
        })
        .collect()
}
