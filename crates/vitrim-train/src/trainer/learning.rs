//! How an update learns from its images: by reinforcement, or by gradients through gates.

use std::ops::Range;
use std::time::Instant;

use vitrim_random::uniform;
use vitrim_vit::{Backbone, Output};

use super::{Images, Trainer, labels};
use crate::assemble::{Assembly, Game, RewardParts};
use crate::config::{Forks, RewardConfig, RewardKind};
use crate::error::{Result, TrainError};
use crate::gumbel::{self, GateBatch, Objective};
use crate::mappo::{PpoHyper, PpoStats};
use crate::rewards::{PaperRewards, PrefixRewards};
use crate::rollout::Rollout;
use crate::share::{Share, Whole};

/// Distinguishes the draw of the forked stage from those of actions.
const FORK: u64 = 0xf0_4c;

/// The results of an update's images, those of all ranks.
pub(super) struct Played {
    /// Number of images.
    pub images: usize,
    pub parts: RewardParts,
    pub keep_ratio: Vec<f64>,
    pub cost: f64,
    pub divergence: Option<f64>,
    /// The dense model's share of right answers.
    pub dense_right: f64,
    /// Share of right answers.
    pub right: f64,
    pub dense_passes: f64,
    pub ppo: Option<PpoStats>,
    pub play_s: f64,
    pub gather_s: f64,
    pub gathered_mb: f64,
}

impl<B: Backbone> Trainer<'_, B> {
    /// By reinforcement: rollouts of every image from the first stage on, their rewards, and MAPPO's update.
    pub(super) fn reinforce(&mut self, images: Images<'_>, hyper: &PpoHyper) -> Result<Played> {
        let started = Instant::now();
        let (turn, boards) = (self.turn(), self.boards.len());
        let (config, board) = (&self.config, &self.boards[turn]);
        let spec = board.backbone.spec();
        let update = board.state.update;

        // Collect.
        let prefix = config.reward.kind == RewardKind::Prefix;
        // After the last stage there is nothing to fork.
        let last = board.sites.len() - 1;
        let forks = match config.reward.forks {
            Forks::EveryStage if prefix => 0..last,
            Forks::OneStage if prefix => {
                let drawn = (uniform(&[config.seed, update as u64, FORK]) * last as f64) as usize;
                drawn..drawn + 1
            }
            _ => 0..0,
        };
        let own = self.play(turn, images, &forks)?;
        let Whole { played, bytes } = own.gathered(&self.ranks)?;
        let gathered = started.elapsed().as_secs_f64();
        let Share { seconds: play_s, keys, labels, dense, rollouts, .. } = played;
        let board = &mut self.boards[turn];
        board.dense_answers.keep(&keys, &dense);
        let add = |passes, rollout: &Rollout| rollout.add_passes(passes, spec, &board.sites, &forks);
        let dense_passes = rollouts.iter().fold(played.passes, add);

        // Reward.
        let correct: Vec<Vec<bool>> = rollouts
            .iter()
            .map(|rollout| rollout.predictions.iter().zip(&labels).map(|(p, l)| p == l).collect())
            .collect();
        let RewardConfig { prize, keep_ratio, softening, .. } = config.reward;
        let game = match prefix {
            false => Game::Paper(PaperRewards { prize_at_196: prize, keep_ratio }),
            true => {
                let (beta, reference) = (board.state.constraint.beta(), board.state.reference);
                Game::Prefix(PrefixRewards { beta, reference, softening })
            }
        };
        let assembly = Assembly::new(&rollouts, spec, &board.sites, &config.critic, &game, &correct);

        // Advantage.
        let parts = assembly.parts;
        if config.advantage.normalize_returns {
            let now = assembly.root_mean_square_return(&config.advantage).max(1e-6);
            let scale = &mut board.state.return_scale;
            *scale = if update < boards { now } else { 0.9 * *scale + 0.1 * now };
        }
        let values = self.learner.values(&assembly.experience);
        let experience = assembly.finish(&values, board.state.return_scale, &config.advantage);

        // Update.
        let shuffle_seed =
            config.seed.wrapping_mul(0x9e37_79b9) ^ (update as u64).wrapping_mul(0x85eb_ca6b_27d4_eb4f);
        let ppo = self.learner.update(&experience, &values, hyper, shuffle_seed);
        let dense_right = dense.argmax().iter().zip(&labels).filter(|(p, l)| p == l).count() as f64;
        Ok(Played {
            images: keys.len(),
            parts,
            dense_right: dense_right / labels.len() as f64,
            dense_passes,
            play_s,
            gather_s: (gathered - play_s).max(0.0),
            gathered_mb: bytes as f64 / 1e6,
            keep_ratio: keep_ratios(&rollouts),
            cost: mean(rollouts.iter().flat_map(|r| r.costs.iter().copied())),
            divergence: prefix.then(|| {
                mean(rollouts.iter().flat_map(|r| r.divergences.last().into_iter().flatten().copied()))
            }),
            right: mean(correct.iter().flatten().map(|&right| f64::from(u8::from(right)))),
            ppo: Some(ppo),
        })
    }

    /// The share of this rank: rollouts of `images` on the backbone `turn`, forked after the stages `forks`.
    fn play(&self, turn: usize, images: Images<'_>, forks: &Range<usize>) -> Result<Share> {
        let started = Instant::now();
        let board = &self.boards[turn];
        let Some(start) = board.open(images)? else { return Ok(Share::none(self.checksum())) };
        let labels = labels(images.labels, &start.dense.argmax(), board.backbone.spec().num_classes)?;
        let rollouts = (0..self.config.rollouts_per_image)
            .map(|r| {
                let key = [self.config.seed, board.state.update as u64, r as u64];
                start.play(&board.pruner, key, images.keys, forks.clone())
            })
            .collect::<Result<Vec<Rollout>>>()?;
        Ok(Share {
            policy: self.checksum(),
            seconds: started.elapsed().as_secs_f64(),
            keys: images.keys.to_vec(),
            labels,
            dense: start.dense,
            passes: start.passes,
            rollouts,
        })
    }

    /// By gradients: every image through gates, and one step of Adam.
    pub(super) fn descend(&mut self, images: Images<'_>, hyper: &PpoHyper) -> Result<Played> {
        let started = Instant::now();
        let (turn, division) = (self.turn(), self.division());
        let board = &mut self.boards[turn];
        let (own, passes) = match board.open(images)? {
            Some(start) => (start.dense, start.passes),
            None => (Output { values: Vec::new(), width: 1 }, 0.0),
        };
        board.dense_answers.keep(images.keys, &own);
        let labels = labels(images.labels, &own.argmax(), board.backbone.spec().num_classes)?;
        let place = division.place(images.keys.len())?;
        if place.whole == 0 {
            return Err(TrainError::NoImages);
        }
        let (all, _) = self.ranks.gather(((own.argmax(), labels), passes))?;
        let (answers, passes): (Vec<_>, Vec<f64>) = all.into_iter().unzip();
        let (dense, labels): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        let (dense, labels) = (dense.concat(), labels.concat());
        let RewardConfig { kind, keep_ratio, softening, .. } = self.config.reward;
        let (beta, reference) = (board.state.constraint.beta(), board.state.reference);
        let objective = match kind == RewardKind::Ratio {
            true => Objective::Ratio { keep_ratio },
            false => Objective::Cost { beta, reference, softening },
        };
        let vit = board.differentiable.as_ref().expect("gates have a differentiable backbone");
        let batch = GateBatch { pixels: images.pixels, keys: images.keys, dense: &own, place };
        let key = [self.config.seed, board.state.update as u64, 0];
        let descent =
            gumbel::descend(vit, self.learner.actor(), &board.pruner, batch, objective, key, &division)?;
        let play_s = started.elapsed().as_secs_f64();
        if let Some(gradients) = descent.gradients {
            self.learner.step_actor(gradients, hyper.actor_lr, hyper.max_grad_norm);
        }
        // In units of an agent's reward: N0 agents share the fidelity term.
        let num_patches = board.backbone.spec().num_patches() as f64;
        let all = num_patches * labels.len() as f64;
        let share = |classes: &[usize]| {
            let right = classes.iter().zip(&labels).filter(|(p, l)| p == l).count() as f64;
            right / labels.len() as f64
        };
        Ok(Played {
            images: labels.len(),
            dense_right: share(&dense),
            right: share(&descent.predictions),
            dense_passes: passes.into_iter().fold(0.0, f64::max),
            play_s,
            gather_s: 0.0,
            gathered_mb: 0.0,
            parts: RewardParts { accuracy: -num_patches * descent.fidelity, efficiency: -descent.efficiency },
            keep_ratio: descent.survivors.iter().map(|&left| left as f64 / all).collect(),
            cost: descent.cost,
            divergence: Some(descent.divergence),
            ppo: None,
        })
    }
}

/// The share of all images' patch tokens that is left after each stage, `[K]`.
fn keep_ratios(rollouts: &[Rollout]) -> Vec<f64> {
    let stages = rollouts[0].stages.len();
    let all = rollouts.iter().map(|r| r.stages[0].kept.len()).sum::<usize>() as f64;
    let survivors = |k: usize| {
        rollouts.iter().map(|r| r.stages[k].kept.iter().filter(|kept| **kept).count()).sum::<usize>()
    };
    (0..stages).map(|k| survivors(k) as f64 / all).collect()
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    sum / count.max(1) as f64
}
