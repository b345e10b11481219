//! One update of the game, in order: collect, reward, advantage, update, log.

mod learning;
mod start;
mod update_log;

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vitrim_data::BatchShare;
use vitrim_prune::policy::{BackboneId, PerceptronSpec, PerceptronWeights, Universal};
use vitrim_prune::{ImageKey, LearnedPruner, Policy, Pruner, ReadOut};
use vitrim_ranks::Ranks;
use vitrim_vit::{Backbone, Output, PixelBatch, Site, Tensors, VitSpec};

pub use start::Start;
pub use update_log::UpdateLog;

use crate::adam::NamedTensor;
use crate::burn_vit::BurnVit;
use crate::config::{LearnerKind, RewardConfig, RewardKind, TrainConfig};
use crate::constraint::Constraint;
use crate::division::{Division, IMAGES};
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

/// A frozen backbone on which the game is played.
struct Board<'a, B: Backbone> {
    backbone: &'a B,
    /// The backbone with gradients but frozen weights, for the learner `gumbel`.
    differentiable: Option<BurnVit>,
    id: BackboneId,
    /// What it is called in the log of a run on several.
    name: String,
    sites: Vec<Site>,
    /// The actor of the last update, ready to run.
    pruner: LearnedPruner,
    state: TrainerState,
    dense_answers: DenseAnswers,
}

/// The game on one frozen backbone, or on several by turns, with one actor and one critic.
pub struct Trainer<'a, B: Backbone> {
    boards: Vec<Board<'a, B>>,
    config: TrainConfig,
    device: Device,
    learner: Learner,
    /// The actor that the training started from, if it was given.
    start: Option<Start>,
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
        let board = Board { differentiable, ..Board::new(backbone, id, config, &learner) };
        Ok(Trainer {
            boards: vec![board],
            config: config.clone(),
            device: device.clone(),
            learner,
            start: None,
            ranks: Ranks::alone(),
        })
    }

    /// Starts with newly initialised networks on several backbones, given with their names, which the updates play by turns.
    ///
    /// # Errors
    /// [`TrainError::Config`] if `config` does not fit a backbone, or an actor that it describes does not fit all.
    pub fn on_several(
        backbones: Vec<(&'a B, BackboneId, String)>,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Self> {
        config.check_universal().map_err(TrainError::Config)?;
        for (backbone, _, name) in &backbones {
            let named = |reason| TrainError::Config(format!("{name}: {reason}"));
            config.check(backbone.spec()).map_err(named)?;
        }
        let (first, ..) = backbones.first().ok_or(TrainError::NoImages)?;
        let learner = fresh(config, first.spec(), None, device);
        let board = |(backbone, id, name)| Board { name, ..Board::new(backbone, id, config, &learner) };
        Ok(Trainer {
            boards: backbones.into_iter().map(board).collect(),
            config: config.clone(),
            device: device.clone(),
            learner,
            start: None,
            ranks: Ranks::alone(),
        })
    }

    /// The same trainer as one of `ranks`, each of which is given its share of the images ([`Trainer::share`]).
    #[must_use]
    pub fn among(self, ranks: &Ranks) -> Self {
        Trainer { ranks: ranks.clone(), ..self }
    }

    /// The part of an update's images that is for this rank.
    pub fn share(&self) -> BatchShare {
        match self.config.learner {
            LearnerKind::Mappo => BatchShare::part(self.ranks.rank(), self.ranks.size()),
            LearnerKind::Gumbel => self.division().own(),
        }
    }

    /// How the images of an update are divided whose gradients are computed.
    fn division(&self) -> Division {
        let all = self.config.images_per_update;
        // The loss with a keep ratio has its mean over the batch.
        let each = if self.config.reward.kind == RewardKind::Ratio { all } else { IMAGES };
        Division::new(all, each, &self.device, &self.ranks)
    }

    /// Replaces the initialised actor by that of `start`, whose inputs and layers must be among those of the
    /// configuration; weights of other inputs are 0.
    ///
    /// # Errors
    /// [`TrainError::Config`] if it does not fit.
    pub fn from_start(mut self, start: Start) -> Result<Self> {
        start.check(&self.config, &self.actor_spec()).map_err(TrainError::Config)?;
        self.start = Some(start);
        self.begin_at(0.0);
        Ok(self)
    }

    /// Number of backbones.
    pub fn backbones(&self) -> usize {
        self.boards.len()
    }

    /// Updates done.
    pub fn updates_done(&self) -> usize {
        self.boards[0].state.update
    }

    /// The backbone that the next update plays.
    fn turn(&self) -> usize {
        self.updates_done() % self.boards.len()
    }

    /// Whether [`Trainer::begin`] must be called before the first update.
    pub fn needs_probes(&self) -> bool {
        let gated = self.config.actor.gate > 0.0;
        (self.follows_target() || gated) && self.updates_done() == 0
    }

    /// Whether the place from which the actor starts can be moved: [`Trainer::place`].
    pub fn can_be_placed(&self) -> bool {
        self.start.is_some() || self.config.actor.gate > 0.0
    }

    /// Measures each of `images` on backbone `board` before the first update; returns the measurements of all ranks'
    /// images.
    ///
    /// # Errors
    /// Errors of the backbone, or of another rank.
    pub fn probe(&mut self, board: usize, images: Images<'_>) -> Result<Vec<Probe>> {
        let (config, board) = (&self.config, &mut self.boards[board]);
        let RewardConfig { keep_ratio, softening, .. } = config.reward;
        let (mut random, mut unlikeness, mut dense) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(start) = board.open(images)? {
            let blocks =
                policy_of(&self.learner, config, board.backbone.spec(), board.id.clone()).drop_stages();
            random = start.random_divergences(keep_ratio, &blocks, config.seed, images.keys)?;
            let gated = config.actor.gate > 0.0;
            unlikeness =
                if gated { start.unlikeness(&board.pruner)? } else { vec![Vec::new(); random.len()] };
            dense = start.dense.values;
        }
        let (all, _) = self.ranks.gather(((images.keys.to_vec(), dense), (random, unlikeness)))?;
        let mut probes = Vec::new();
        for ((keys, dense), (random, unlikeness)) in all {
            let width = dense.len() / keys.len().max(1);
            board.dense_answers.keep(&keys, &Output { width, values: dense });
            let probe =
                |(divergence, unlikeness)| Probe { divergence: soften(divergence, softening), unlikeness };
            probes.extend(random.into_iter().zip(unlikeness).map(probe));
        }
        Ok(probes)
    }

    /// Sets g_ref of each backbone from the `probes` of its reference images, and the position of a new actor's gate by its
    /// share (`actor.initial_keep`) from all of them.
    pub fn begin(&mut self, probes: &[Vec<Probe>]) {
        for (board, probes) in self.boards.iter_mut().zip(probes) {
            board.state.reference = mean(probes.iter().map(|probe| probe.divergence)).max(LEAST_REFERENCE);
        }
        if self.start.is_none() {
            self.place_gate(probes, self.config.actor.initial_keep);
        }
    }

    /// Starts the actor anew with a gate at which a share of `keep` of the first stage's agents of the `probes` tends to
    /// stay; without a gate, or agents, it stays as it is. A given actor is made milder instead: `keep` is then the
    /// keep probability that its decision boundary gets.
    pub fn place(&mut self, probes: &[Vec<Probe>], keep: f64) {
        if self.start.is_some() {
            self.begin_at((keep / (1.0 - keep)).ln() as f32);
        } else {
            self.place_gate(probes, keep);
        }
    }

    /// Starts anew with the given actor, the logit of p_keep higher by `shift`.
    fn begin_at(&mut self, shift: f32) {
        let Some(start) = &self.start else { return };
        let spec = self.boards[0].backbone.spec();
        let actor = start.weights_for(&self.config, &self.actor_spec(), shift);
        self.learner = with_actor(&self.config, spec, &actor, &self.device);
        self.refresh();
    }

    fn place_gate(&mut self, probes: &[Vec<Probe>], keep: f64) {
        let all = probes.iter().flatten();
        let mut unlikeness: Vec<f32> = all.flat_map(|probe| probe.unlikeness.iter().copied()).collect();
        if !unlikeness.is_empty() {
            unlikeness.sort_by(f32::total_cmp);
            let leaving = (1.0 - keep) * unlikeness.len() as f64;
            let at = unlikeness[(leaving as usize).min(unlikeness.len() - 1)];
            self.learner = fresh(&self.config, self.boards[0].backbone.spec(), Some(at), &self.device);
            self.refresh();
        }
    }

    /// What one sampled rollout of each image of all ranks loses on backbone `board`: 1 if its answer differs from the dense
    /// model's, otherwise 0; for a backbone without classes, the drift 1 - cos.
    ///
    /// # Errors
    /// Errors of the backbone, or of another rank.
    pub fn sampled_losses(&mut self, board: usize, images: Images<'_>) -> Result<Vec<f64>> {
        let board = &self.boards[board];
        let mut own = Vec::new();
        if let Some(start) = board.open(images)? {
            let key = [self.config.seed, u64::MAX, 0];
            let rollout = start.play(&board.pruner, key, images.keys, 0..0)?;
            own = if board.backbone.spec().num_classes == 0 {
                rollout.divergences.last().cloned().unwrap_or_default()
            } else {
                let pairs = start.dense.argmax().into_iter().zip(&rollout.predictions);
                pairs.map(|(dense, pruned)| f64::from(u8::from(dense != *pruned))).collect()
            };
        }
        Ok(self.ranks.gather(own)?.0.concat())
    }

    /// Plays `images` on the backbone whose turn it is, learns from those of all ranks, and returns the metrics.
    ///
    /// # Errors
    /// Errors of the backbone, a label for which the backbone has no class, or an error of another rank.
    pub fn update(&mut self, images: Images<'_>) -> Result<UpdateLog> {
        let started = Instant::now();
        let turn = self.turn();
        let board = &self.boards[turn];
        let spec = board.backbone.spec();
        let beta = board.state.constraint.beta();
        let (learning_rate, entropy) = self.config.ppo.schedule(board.state.update, self.config.updates);
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
        let constraint = &mut self.boards[turn].state.constraint;
        if let (Some(divergence), true) = (divergence, follows_target) {
            constraint.observe(sampled_accuracy_loss, divergence, &self.config.constraint);
        }
        let estimated_accuracy_loss = follows_target.then(|| constraint.estimated_accuracy_loss());
        self.boards.iter_mut().for_each(|board| board.state.update += 1);
        self.refresh();
        let seconds = started.elapsed().as_secs_f64();
        Ok(UpdateLog {
            update: self.updates_done(),
            backbone: (self.boards.len() > 1).then(|| self.boards[turn].name.clone()),
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
            estimated_accuracy_loss,
            beta: follows_target.then_some(beta),
            learning_rate,
            ppo,
        })
    }

    /// Whether beta follows the accuracy target.
    fn follows_target(&self) -> bool {
        self.config.reward.kind == RewardKind::Prefix
    }

    /// The current policy for the first backbone, not calibrated: `paper` samples, `prefix` keeps tokens with p_keep > 1/2.
    pub fn policy(&self) -> Policy {
        let board = &self.boards[0];
        policy_of(&self.learner, &self.config, board.backbone.spec(), board.id.clone())
    }

    /// The current policy for every backbone.
    pub fn universal(&self) -> Universal {
        let Policy { departure, observation, actor, weights, read_out, .. } = self.policy();
        Universal {
            depth_shares: Universal::DEPTH_SHARES.to_vec(),
            departure,
            observation,
            actor,
            weights,
            read_out,
            trained_on: self.boards.iter().map(|board| format!("{}: {}", board.name, board.id)).collect(),
        }
    }

    /// Everything that the next update depends on: the state of each backbone, and the networks.
    pub fn state(&self) -> (Vec<&TrainerState>, &Learner) {
        (self.boards.iter().map(|board| &board.state).collect(), &self.learner)
    }

    /// Continues from the output of [`Trainer::state`].
    ///
    /// # Errors
    /// If the learner's tensors do not fit.
    pub fn restore(&mut self, states: Vec<TrainerState>, learner: &[NamedTensor]) -> Result<()> {
        self.learner.load(learner)?;
        self.boards.iter_mut().zip(states).for_each(|(board, state)| board.state = state);
        self.refresh();
        Ok(())
    }

    fn actor_spec(&self) -> PerceptronSpec {
        self.config.actor_spec(self.boards[0].backbone.spec())
    }

    fn refresh(&mut self) {
        self.boards.iter_mut().for_each(|board| board.refresh(&self.config, &self.learner));
    }

    /// Checksum of the policy, the same on all ranks.
    fn checksum(&self) -> u32 {
        let weights = self.learner.actor_weights();
        let values = weights.named().into_iter().flat_map(|(_, values)| values);
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        crc32c::crc32c(&bytes)
    }
}

impl<'a, B: Backbone> Board<'a, B> {
    fn new(backbone: &'a B, id: BackboneId, config: &TrainConfig, learner: &Learner) -> Self {
        let spec = backbone.spec();
        let pruner = LearnedPruner::new(spec, &policy_of(learner, config, spec, id.clone()));
        Board {
            backbone,
            differentiable: None,
            name: id.architecture.clone(),
            sites: pruner.sites(spec).into_iter().map(|(site, _)| site).collect(),
            pruner,
            id,
            state: TrainerState {
                update: 0,
                reference: 1.0,
                return_scale: 1.0,
                constraint: Constraint::new(&config.constraint),
            },
            dense_answers: DenseAnswers::default(),
        }
    }

    fn refresh(&mut self, config: &TrainConfig, learner: &Learner) {
        let spec = self.backbone.spec();
        self.pruner = LearnedPruner::new(spec, &policy_of(learner, config, spec, self.id.clone()));
    }

    /// The images at the first stage, and what the dense model says of them; `None` if this rank has none.
    fn open(&self, images: Images<'_>) -> Result<Option<RolloutStart<'a, B>>> {
        let first = self.pruner.sites(self.backbone.spec())[0];
        let open =
            || RolloutStart::open(self.backbone, images.pixels, images.keys, first, &self.dense_answers);
        (!images.keys.is_empty()).then(open).transpose()
    }
}

/// Newly initialised networks. `gate`: the dissimilarity at which an agent is as likely to stay as to leave.
fn fresh(config: &TrainConfig, spec: &VitSpec, gate: Option<f32>, device: &Device) -> Learner {
    let keep = config.actor.initial_keep;
    let slope = config.actor.gate as f32;
    let logit = gate.map_or_else(|| (keep / (1.0 - keep)).ln() as f32, |at| -slope * at);
    let actor = config.actor_spec(spec);
    // Initialised without the context; its weights start at 0.
    let blind = PerceptronSpec { context: false, ..actor.clone() };
    let mut actor_weights = orthogonal_init(&blind, config.seed, config.actor.head_gain, &[0.0, logit]);
    actor_weights.context = PerceptronWeights::zeros(&actor).context;
    if let (Some(_), Some(unlikeness)) = (gate, config.actor.observation.gate_scalar()) {
        // The logit of p_keep is the second output minus the first.
        actor_weights.shortcut[actor.scalars + unlikeness] = slope;
    }
    with_actor(config, spec, &actor_weights, device)
}

/// An actor with `weights` and a newly initialised critic.
fn with_actor(config: &TrainConfig, spec: &VitSpec, weights: &PerceptronWeights, device: &Device) -> Learner {
    let (actor, critic) = (config.actor_spec(spec), config.critic_spec(spec));
    let critic_weights = orthogonal_init(&critic, config.seed ^ 0x00c8_171c, 1.0, &[0.0]);
    Learner::new((actor, weights), (critic, &critic_weights), config.ppo.adam_eps, device)
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
        offsets: Vec::new(),
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
