//! One update of the game, in the order in which it happens: collect, reward, advantage, update, log.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vitrim_prune::policy::{BackboneId, PerceptronSpec, PerceptronWeights};
use vitrim_prune::{ImageKey, LearnedPruner, Policy, Pruner, ReadOut};
use vitrim_vit::{Backbone, PixelBatch, Site, Taps, Tensors, VitSpec};

use crate::adam::NamedTensor;
use crate::assemble::{Assembly, Game, RewardParts};
use crate::burn_vit::BurnVit;
use crate::config::{LearnerKind, RewardConfig, RewardKind, TrainConfig};
use crate::constraint::Constraint;
use crate::error::{Result, TrainError};
use crate::gumbel::{self, Batch, Objective};
use crate::mappo::{Learner, PpoHyper, PpoStats};
use crate::perceptron::orthogonal_init;
use crate::rewards::{PaperRewards, PrefixRewards, soften};
use crate::rollout::{Rollout, Scene};

/// g_ref below this would make beta meaningless: random pruning then changes nothing.
const LEAST_REFERENCE: f64 = 1e-4;

/// Images of one update.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// `[I, 3, H, W]`.
    pub pixels: PixelBatch<'a>,
    /// `[I]`; where there is none, the dense model's prediction stands in for it.
    pub labels: &'a [Option<u32>],
    /// `[I]`.
    pub keys: &'a [ImageKey],
}

/// What an image tells before the first update, see [`Trainer::begin`].
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// g(D) of random pruning.
    pub divergence: f64,
    /// How unlike the first stage's agents and those that they would join are ([`Observation::pair`]'s first scalar);
    /// empty without a gate.
    ///
    /// [`Observation::pair`]: vitrim_prune::policy::Observation::pair
    pub unlikeness: Vec<f32>,
}

/// What a practitioner watches, once an update.
#[derive(Clone, Debug, Serialize)]
pub struct UpdateLog {
    /// 1-based.
    pub update: usize,
    /// Images a second, all their rollouts and the update of the networks included.
    pub images_per_s: f64,
    /// Mean reward of an agent's life.
    pub reward: f64,
    /// Its part for accuracy (`paper`: prize; `prefix`: price of divergence).
    pub reward_accuracy: f64,
    /// Its part for efficiency (`paper`: penalty; `prefix`: rent).
    pub reward_efficiency: f64,
    /// Survivors of each stage as a share of N0.
    pub keep_ratio: Vec<f64>,
    /// Token-layers as a share of the dense model's.
    pub cost: f64,
    /// Mean D after the last stage; absent without prefix credit.
    pub divergence: Option<f64>,
    /// Dense minus sampled top-1 of this update, pp; of a backbone without classes, the drift: 100 times the mean of
    /// 1 - cos of its features, percent.
    pub sampled_drop: f64,
    /// Whether the drops here are drifts, percent: the backbone has no classes.
    #[serde(skip)]
    pub drifts: bool,
    /// The drop (or drift) that beta follows, see [`crate::constraint`]; absent without prefix credit, pp.
    pub estimated_drop: Option<f64>,
    /// The price of divergence; absent without prefix credit.
    pub beta: Option<f64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// PPO's own quantities; absent where gates learn.
    #[serde(flatten)]
    pub ppo: Option<PpoStats>,
}

/// What a checkpoint holds beside the learner's tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Updates done.
    pub update: usize,
    /// g_ref, see [`PrefixRewards`].
    pub reference: f64,
    /// Running root mean square of the returns.
    pub return_scale: f64,
    /// beta and the drops it follows.
    pub constraint: Constraint,
}

/// What an update's images came to.
struct Played {
    parts: RewardParts,
    keep_ratio: Vec<f64>,
    cost: f64,
    divergence: Option<f64>,
    /// Share of the answers that are right.
    right: f64,
    ppo: Option<PpoStats>,
}

/// The game on one frozen backbone.
pub struct Trainer<'a, B: Backbone> {
    backbone: &'a B,
    /// The same with gradients but frozen weights, where gates learn.
    differentiable: Option<BurnVit>,
    id: BackboneId,
    config: TrainConfig,
    device: Device,
    sites: Vec<Site>,
    learner: Learner,
    /// The actor of the last update, ready to run.
    pruner: LearnedPruner,
    state: TrainerState,
}

impl<'a, B: Backbone> Trainer<'a, B> {
    /// Starts from freshly initialised networks. `weights` are the backbone's, which the learner `gumbel` needs.
    ///
    /// # Errors
    /// [`TrainError::Config`] if `config` does not fit the backbone, or asks for weights that are not given.
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
        })
    }

    /// Updates done.
    pub fn updates_done(&self) -> usize {
        self.state.update
    }

    /// The configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Whether [`Trainer::begin`] must be called before the first update.
    pub fn needs_probes(&self) -> bool {
        let gated = self.config.actor.gate > 0.0;
        (self.follows_target() || gated) && self.state.update == 0
    }

    /// What each of `images` tells before the first update.
    ///
    /// # Errors
    /// What the backbone refuses.
    pub fn probe(&self, images: Images<'_>) -> Result<Vec<Probe>> {
        let scene = Scene::open(self.backbone, images.pixels, self.first_site())?;
        let RewardConfig { keep_ratio, softening, .. } = self.config.reward;
        let blocks = self.policy().drop_stages();
        let random = scene.random_divergences(keep_ratio, &blocks, self.config.seed, images.keys)?;
        let gated = self.config.actor.gate > 0.0;
        let unlikeness = if gated { scene.unlikeness(&self.pruner)? } else { vec![Vec::new(); random.len()] };
        let probe =
            |(divergence, unlikeness)| Probe { divergence: soften(divergence, softening), unlikeness };
        Ok(random.into_iter().zip(unlikeness).map(probe).collect())
    }

    /// Fixes what `probes` of the reference images settle: g_ref, and where the gate of a new actor lies.
    pub fn begin(&mut self, probes: &[Probe]) {
        self.state.reference = mean(probes.iter().map(|probe| probe.divergence)).max(LEAST_REFERENCE);
        let mut unlikeness: Vec<f32> =
            probes.iter().flat_map(|probe| probe.unlikeness.iter().copied()).collect();
        if !unlikeness.is_empty() {
            unlikeness.sort_by(f32::total_cmp);
            let leaving = (1.0 - self.config.actor.initial_keep) * unlikeness.len() as f64;
            let at = unlikeness[(leaving as usize).min(unlikeness.len() - 1)];
            self.learner = fresh(&self.config, self.backbone.spec(), Some(at), &self.device);
            self.refresh();
        }
    }

    /// Plays `images`, learns from it, and reports.
    ///
    /// # Errors
    /// What the backbone refuses, or a label that the backbone has no class for.
    pub fn update(&mut self, images: Images<'_>) -> Result<UpdateLog> {
        let started = Instant::now();
        let spec = self.backbone.spec();
        let scene = Scene::open(self.backbone, images.pixels, self.first_site())?;
        let dense = scene.dense.argmax();
        let labels = labels(images.labels, &dense, spec.num_classes)?;
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
        let Played { parts, keep_ratio, cost, divergence, right, ppo } = match self.config.learner {
            LearnerKind::Mappo => self.reinforce(&scene, images.keys, &labels, &hyper)?,
            LearnerKind::Gumbel => self.descend(&scene, images, &labels, &hyper)?,
        };

        // Follow the accuracy target, and log.
        let dense_right = dense.iter().zip(&labels).filter(|(p, l)| p == l).count() as f64;
        let sampled_drop = match divergence {
            Some(divergence) if spec.num_classes == 0 => 100.0 * divergence,
            _ => 100.0 * (dense_right / labels.len().max(1) as f64 - right),
        };
        let follows_target = self.follows_target();
        if let (Some(divergence), true) = (divergence, follows_target) {
            self.state.constraint.observe(sampled_drop, divergence, &self.config.constraint);
        }
        self.state.update += 1;
        self.refresh();
        Ok(UpdateLog {
            update: self.state.update,
            images_per_s: images.keys.len() as f64 / started.elapsed().as_secs_f64(),
            reward: parts.accuracy + parts.efficiency,
            reward_accuracy: parts.accuracy,
            reward_efficiency: parts.efficiency,
            keep_ratio,
            cost,
            divergence,
            sampled_drop,
            drifts: spec.num_classes == 0,
            estimated_drop: follows_target.then(|| self.state.constraint.estimated_drop()),
            beta: follows_target.then_some(beta),
            learning_rate,
            ppo,
        })
    }

    /// By reinforcement: rollouts of every image from the first stage on, what they are paid, and MAPPO's update.
    fn reinforce(
        &mut self,
        scene: &Scene<'_, B>,
        keys: &[ImageKey],
        labels: &[usize],
        hyper: &PpoHyper,
    ) -> Result<Played> {
        let (spec, config) = (self.backbone.spec(), &self.config);
        let update = self.state.update;

        // Collect.
        let prefix_credit = config.reward.kind == RewardKind::Prefix;
        let rollouts = (0..config.rollouts_per_image)
            .map(|r| {
                let key = [config.seed, update as u64, r as u64];
                scene.play(&self.pruner, key, keys, prefix_credit)
            })
            .collect::<Result<Vec<Rollout>>>()?;

        // Reward.
        let correct: Vec<Vec<bool>> = rollouts
            .iter()
            .map(|rollout| rollout.predictions.iter().zip(labels).map(|(p, l)| p == l).collect())
            .collect();
        let num_patches = spec.num_patches();
        let RewardConfig { prize, keep_ratio, softening, .. } = config.reward;
        let game = match prefix_credit {
            false => Game::Paper(PaperRewards::new(prize, keep_ratio, num_patches)),
            true => {
                let (beta, reference) = (self.state.constraint.beta(), self.state.reference);
                Game::Prefix(PrefixRewards { beta, reference, softening, num_patches })
            }
        };
        let assembly = Assembly::new(&rollouts, spec, &self.sites, &config.critic, &game, &correct);

        // Advantage.
        let parts = assembly.parts;
        if config.advantage.normalize_returns {
            let now = assembly.root_mean_square_return(&config.advantage).max(1e-6);
            let scale = &mut self.state.return_scale;
            *scale = if update == 0 { now } else { 0.9 * *scale + 0.1 * now };
        }
        let values = self.learner.values(&assembly.experience);
        let experience = assembly.finish(&values, self.state.return_scale, &config.advantage);

        // Update.
        let shuffle_seed =
            config.seed.wrapping_mul(0x9e37_79b9) ^ (update as u64).wrapping_mul(0x85eb_ca6b_27d4_eb4f);
        let ppo = self.learner.update(&experience, &values, hyper, shuffle_seed);
        Ok(Played {
            parts,
            keep_ratio: keep_ratios(&rollouts, num_patches),
            cost: mean(rollouts.iter().flat_map(|r| r.costs.iter().copied())),
            divergence: prefix_credit.then(|| {
                mean(rollouts.iter().flat_map(|r| r.divergences.last().into_iter().flatten().copied()))
            }),
            right: mean(correct.iter().flatten().map(|&right| f64::from(u8::from(right)))),
            ppo: Some(ppo),
        })
    }

    /// By gradients: every image through gates, and a step of Adam.
    fn descend(
        &mut self,
        scene: &Scene<'_, B>,
        images: Images<'_>,
        labels: &[usize],
        hyper: &PpoHyper,
    ) -> Result<Played> {
        let RewardConfig { kind, keep_ratio, softening, .. } = self.config.reward;
        let (beta, reference) = (self.state.constraint.beta(), self.state.reference);
        let objective = match kind == RewardKind::Ratio {
            true => Objective::Ratio { keep_ratio },
            false => Objective::Cost { beta, reference, softening },
        };
        let vit = self.differentiable.as_ref().expect("gates have a differentiable backbone");
        let batch = Batch { pixels: images.pixels, keys: images.keys, dense: &scene.dense };
        let key = [self.config.seed, self.state.update as u64, 0];
        let shards = if self.device == Device::flex() { rayon::current_num_threads() } else { 1 };
        let descent =
            gumbel::descend(vit, self.learner.actor(), &self.pruner, batch, objective, key, shards)?;
        if let Some(gradients) = descent.gradients {
            self.learner.step_actor(gradients, hyper.actor_lr, hyper.max_grad_norm);
        }
        // In units of an agent's reward, of which N0 agents share the fidelity's.
        let num_patches = self.backbone.spec().num_patches() as f64;
        let all = num_patches * labels.len() as f64;
        let right = descent.predictions.iter().zip(labels).filter(|(p, l)| p == l).count() as f64;
        Ok(Played {
            parts: RewardParts { accuracy: -num_patches * descent.fidelity, efficiency: -descent.efficiency },
            keep_ratio: descent.survivors.iter().map(|&left| left as f64 / all).collect(),
            cost: descent.cost,
            divergence: Some(descent.divergence),
            right: right / labels.len().max(1) as f64,
            ppo: None,
        })
    }

    /// Whether beta follows the accuracy target.
    fn follows_target(&self) -> bool {
        self.config.reward.kind == RewardKind::Prefix
    }

    /// The policy as it stands, not calibrated: `paper` samples, `prefix` keeps where p_keep > 1/2.
    pub fn policy(&self) -> Policy {
        policy_of(&self.learner, &self.config, self.backbone.spec(), self.id.clone())
    }

    /// Everything that the next update depends on.
    pub fn state(&self) -> (&TrainerState, &Learner) {
        (&self.state, &self.learner)
    }

    /// Goes on from what [`Trainer::state`] gave.
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

    fn first_site(&self) -> (Site, Taps) {
        self.pruner.sites(self.backbone.spec())[0]
    }
}

/// Freshly initialised networks. `gate`: how unlike its partner an agent is that is as likely to stay as to leave.
fn fresh(config: &TrainConfig, spec: &VitSpec, gate: Option<f32>, device: &Device) -> Learner {
    let keep = config.actor.initial_keep;
    let slope = config.actor.gate as f32;
    let logit = gate.map_or_else(|| (keep / (1.0 - keep)).ln() as f32, |at| -slope * at);
    let (actor, critic) = (config.actor_spec(spec), config.critic_spec(spec));
    // As if they did not see the context, which they learn to look at.
    let blind = PerceptronSpec { context: false, ..actor.clone() };
    let mut actor_weights = orthogonal_init(&blind, config.seed, config.actor.head_gain, &[0.0, logit]);
    actor_weights.context = PerceptronWeights::zeros(&actor).context;
    if gate.is_some() {
        // The logit of p_keep is the second output less the first.
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

/// Class of each image: its label, else the dense model's prediction.
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

fn keep_ratios(rollouts: &[Rollout], num_patches: usize) -> Vec<f64> {
    let stages = rollouts[0].stages.len();
    let images = rollouts[0].predictions.len();
    let all = (rollouts.len() * images * num_patches) as f64;
    let survivors = |k: usize| {
        rollouts.iter().map(|r| r.stages[k].kept.iter().filter(|kept| **kept).count()).sum::<usize>()
    };
    (0..stages).map(|k| survivors(k) as f64 / all).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    sum / count.max(1) as f64
}
