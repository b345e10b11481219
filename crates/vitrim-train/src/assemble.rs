//! From rollouts to experience: every live agent-step, its reward, its return, its advantage.

use vitrim_vit::{Site, VitSpec, cost};

use crate::advantages::{gae, leave_one_out, normalize, scale_by_rms};
use crate::config::{AdvantageConfig, Baseline, CriticConfig, Scaling};
use crate::experience::Experience;
use crate::rewards::{PaperRewards, PrefixRewards};
use crate::rollout::Rollout;

/// The rewards of the game.
#[derive(Clone, Copy, Debug)]
pub enum Game {
    /// The rewards of the preset `paper`.
    Paper(PaperRewards),
    /// The rewards of the default preset.
    Prefix(PrefixRewards),
}

/// One agent in one episode.
#[derive(Default)]
struct Life {
    /// Its agent-steps: one per stage at which it is alive and has a choice.
    steps: Vec<usize>,
    /// Reward of each step, including rewards at later stages until the agent has a choice again.
    rewards: Vec<f64>,
}

/// Mean rewards per episode, split into parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct RewardParts {
    /// The prize (`paper`) or the price of divergence (`prefix`), per agent that acted at the first stage.
    pub accuracy: f64,
    /// The penalty (`paper`) or the rent (`prefix`), per agent that acted at the first stage.
    pub efficiency: f64,
}

/// Experience of `rollouts` of I images, without advantages and returns, and its agents' lives, grouped by image,
/// rollout and first position.
pub struct Assembly {
    /// Agent-steps, in the order image, rollout, stage, position.
    pub experience: Experience,
    /// Mean reward of an agent's life, by parts.
    pub parts: RewardParts,
    lives: Vec<Vec<Vec<Life>>>,
    /// The team's future reward from each stage on, `[I][R][K]`; 0 in the paper's game, in which no reward is common
    /// to all.
    team: Vec<Vec<Vec<f64>>>,
}

impl Assembly {
    /// Lays out `rollouts` and computes `game`'s rewards. `correct[r][i]`: whether rollout r of image i ended in the
    /// right class.
    pub fn new(
        rollouts: &[Rollout],
        spec: &VitSpec,
        sites: &[Site],
        critic: &CriticConfig,
        game: &Game,
        correct: &[Vec<bool>],
    ) -> Self {
        let images = rollouts[0].predictions.len();
        let mut experience = Experience::default();
        let mut sums = RewardParts::default();
        let (mut lives, mut team) = (Vec::with_capacity(images), Vec::with_capacity(images));
        for image in 0..images {
            team.push(rollouts.iter().map(|rollout| team_to_go(rollout, image, game)).collect::<Vec<_>>());
            let of_image = rollouts.iter().zip(correct).map(|(rollout, correct)| {
                let mut episode = lay_out(rollout, image, spec, critic, &mut experience);
                pay(&mut episode, rollout, image, spec, sites, game, correct[image], &mut sums);
                episode
            });
            lives.push(of_image.collect::<Vec<_>>());
        }
        let agents = lives.iter().flatten().map(Vec::len).sum::<usize>().max(1) as f64;
        let parts = RewardParts { accuracy: sums.accuracy / agents, efficiency: sums.efficiency / agents };
        Assembly { experience, parts, lives, team }
    }

    /// Root mean square of the critic's targets before scaling: returns minus the part of the baseline that is not
    /// learned.
    pub fn root_mean_square_return(&self, config: &AdvantageConfig) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for (lives, team) in self.lives.iter().zip(&self.team) {
            for (rollout, lives) in lives.iter().enumerate() {
                let baseline = image_baseline(team, rollout, config.baseline);
                for life in lives {
                    let mut to_go = 0.0;
                    for (reward, &step) in life.rewards.iter().zip(&life.steps).rev() {
                        to_go = reward + config.gamma * to_go;
                        let beyond = to_go - baseline[self.experience.stages[step] as usize];
                        sum += beyond * beyond;
                        count += 1.0;
                    }
                }
            }
        }
        f64::sqrt(sum / f64::max(count, 1.0))
    }

    /// Computes advantages and returns from the critic's `values: [S]`. The values, like the returns that the critic
    /// learns, are in units of `return_scale`.
    pub fn finish(mut self, values: &[f32], return_scale: f64, config: &AdvantageConfig) -> Experience {
        let n = self.experience.len();
        self.experience.advantages = vec![0.0; n];
        self.experience.returns = vec![0.0; n];
        for (rollouts, team) in self.lives.iter().zip(&self.team) {
            for (rollout, lives) in rollouts.iter().enumerate() {
                let baseline = image_baseline(team, rollout, config.baseline);
                for life in lives {
                    let of_stage = life.steps.iter().map(|&s| baseline[self.experience.stages[s] as usize]);
                    let baseline: Vec<f64> = of_stage.collect();
                    let predicted = life.steps.iter().map(|&s| f64::from(values[s]) * return_scale);
                    let values: Vec<f64> = predicted.zip(&baseline).map(|(v, b)| v + b).collect();
                    let advantages = gae(&life.rewards, &values, config.gamma, config.lambda);
                    for (i, &step) in life.steps.iter().enumerate() {
                        self.experience.advantages[step] = advantages[i] as f32;
                        let beyond = advantages[i] + values[i] - baseline[i];
                        self.experience.returns[step] = (beyond / return_scale) as f32;
                    }
                }
            }
            if config.baseline == Baseline::LeaveOneOut {
                // At the first stage all rollouts of an image have the same state: agents match by index, and an
                // agent that has a choice in one rollout has it in all.
                for agent in 0..rollouts[0].len() {
                    let first = rollouts[0][agent].steps.first();
                    if first.is_none_or(|&step| self.experience.stages[step] > 0) {
                        continue;
                    }
                    let returns: Vec<f64> = rollouts
                        .iter()
                        .map(|lives| lives[agent].rewards.iter().rev().fold(0.0, |g, r| r + config.gamma * g))
                        .collect();
                    for (lives, advantage) in rollouts.iter().zip(leave_one_out(&returns)) {
                        self.experience.advantages[lives[agent].steps[0]] = advantage as f32;
                    }
                }
            }
        }
        match config.scaling {
            Scaling::Normalize => normalize(&mut self.experience.advantages),
            Scaling::Rms => scale_by_rms(&mut self.experience.advantages),
        }
        self.experience
    }
}

/// The future reward of the whole team of `image` from each stage on, `[K]`.
fn team_to_go(rollout: &Rollout, image: usize, game: &Game) -> Vec<f64> {
    let stages = rollout.stages.len();
    match game {
        Game::Paper(_) => vec![0.0; stages],
        Game::Prefix(rewards) => {
            let last = rollout.divergences[stages - 1][image];
            let fidelity = |from| rewards.fidelity(rollout.num_patches(image), from, last);
            (0..stages).map(|k| fidelity(divergence_after(rollout, image, k))).collect()
        }
    }
}

/// A baseline for each stage that is independent of this rollout's actions, `[K]`: the team's mean reward in the
/// image's other rollouts. Most of a return's variance is due to the difficulty of its image; this baseline removes
/// that part without the critic.
fn image_baseline(team: &[Vec<f64>], rollout: usize, baseline: Baseline) -> Vec<f64> {
    let stages = team[rollout].len();
    if baseline == Baseline::Critic {
        return vec![0.0; stages];
    }
    let others = |k: usize| (0..team.len()).filter(|r| *r != rollout).map(|r| team[r][k]).sum::<f64>();
    (0..stages).map(|k| others(k) / (team.len() - 1) as f64).collect()
}

/// D of `image` when pruning stops after `stages` stages; 0 before the first.
fn divergence_after(rollout: &Rollout, image: usize, stages: usize) -> f64 {
    if stages == 0 { 0.0 } else { rollout.divergences[stages - 1][image] }
}

/// Appends one episode's agent-steps; returns its lives without rewards, in order of position.
fn lay_out(
    rollout: &Rollout,
    image: usize,
    spec: &VitSpec,
    critic: &CriticConfig,
    experience: &mut Experience,
) -> Vec<Life> {
    let d = spec.dim;
    let first_step = experience.len();
    let mut lives: Vec<Life> = Vec::new();
    let mut alive: Vec<usize> = Vec::new();
    for (k, stage) in rollout.stages.iter().enumerate() {
        let agents = stage.offsets[image]..stage.offsets[image + 1];
        let width = stage.scalars.len() / stage.kept.len().max(1);
        if k == 0 {
            lives = agents.clone().map(|_| Life::default()).collect();
            alive = (0..lives.len()).collect();
        }
        let (context, embedded) = (experience.contexts.len() / d, !stage.contexts.is_empty());
        if embedded {
            experience.contexts.extend_from_slice(&stage.contexts[image * d..(image + 1) * d]);
        }
        let share_alive = agents.len() as f32 / rollout.num_patches(image) as f32;
        let (survivors, others) = (stage.survivors(image), agents.len().saturating_sub(1).max(1) as f32);
        // Only agents with a choice have a token.
        let first = stage.free[..agents.start].iter().filter(|free| **free).count();
        let mut tokens = stage.tokens[if embedded { first * d } else { 0 }..].chunks_exact(d);
        for (agent, life) in agents.clone().zip(&alive).filter(|(agent, _)| stage.free[*agent]) {
            lives[*life].steps.push(experience.len());
            let scalars = &stage.scalars[agent * width..(agent + 1) * width];
            experience.positions.push(stage.positions[agent]);
            experience.stages.push(k as u32);
            experience.actor_scalars.extend_from_slice(scalars);
            if critic.progress {
                experience.critic_scalars.extend_from_slice(scalars);
                experience.critic_scalars.push(share_alive);
            }
            if critic.others_kept {
                let others_kept = survivors - usize::from(stage.kept[agent]);
                experience.critic_scalars.push(others_kept as f32 / others);
            }
            experience.context_of.push(context as u32);
            experience.actions.push(u8::from(stage.kept[agent]));
            experience.log_probs.push(stage.log_probs[agent]);
            if embedded {
                experience
                    .tokens
                    .extend_from_slice(tokens.next().expect("a token of each agent with a choice"));
            }
        }
        let mut kept = stage.kept[agents].iter();
        alive.retain(|_| *kept.next().expect("one flag an agent"));
    }
    experience.episodes.push(first_step..experience.len());
    lives
}

/// Adds the reward of each step to every life of an episode.
#[expect(clippy::too_many_arguments, reason = "one episode's facts, used once")]
fn pay(
    lives: &mut [Life],
    rollout: &Rollout,
    image: usize,
    spec: &VitSpec,
    sites: &[Site],
    game: &Game,
    correct: bool,
    sums: &mut RewardParts,
) {
    let num_patches = rollout.num_patches(image);
    // The share of a block's parts depends on the number of patches alone.
    let grid = if spec.num_patches() == num_patches { spec.grid() } else { [1, num_patches] };
    let spec = &*spec.of_grid(grid);
    let (last, layers) = (sites.len() - 1, cost::layers(spec));
    let survivors: Vec<usize> = rollout.stages.iter().map(|s| s.survivors(image)).collect();
    let divergence = |after: usize| divergence_after(rollout, image, after);
    let mut left = vec![true; lives.len()];
    for (k, stage) in rollout.stages.iter().enumerate() {
        let agents = stage.offsets[image]..stage.offsets[image + 1];
        let alive: Vec<usize> = (0..lives.len()).filter(|&i| left[i]).collect();
        let here = cost::layers_before(spec, sites[k]);
        let next = sites.get(k + 1).map_or(layers, |site| cost::layers_before(spec, *site));
        for (&life, agent) in alive.iter().zip(agents) {
            let survives = stage.kept[agent];
            let (accuracy, efficiency) = match game {
                Game::Paper(rewards) => (
                    if survives { rewards.accuracy(survivors[k], num_patches, correct) } else { 0.0 },
                    rewards.efficiency(k, survivors[k], num_patches, survives),
                ),
                Game::Prefix(rewards) => {
                    let rent = if survives { PrefixRewards::rent(here, next, layers) } else { 0.0 };
                    // An agent that has left still receives the later team terms: leaving does not avoid them.
                    let until = if survives { k + 1 } else { last + 1 };
                    (rewards.fidelity(num_patches, divergence(k), divergence(until)), rent)
                }
            };
            // If the agent has no choice, its reward is added to that of its last step.
            match (stage.free[agent], lives[life].rewards.last_mut()) {
                (true, _) => lives[life].rewards.push(accuracy + efficiency),
                (false, Some(last)) => *last += accuracy + efficiency,
                (false, None) => {}
            }
            sums.accuracy += accuracy;
            sums.efficiency += efficiency;
            left[life] = survives;
        }
    }
}

#[cfg(test)]
mod tests {
    use vitrim_vit::Pool;

    use super::*;
    use crate::config::TrainConfig;
    use crate::rollout::StageSample;

    /// One image of 3 patch tokens, two stages; token 1 leaves at stage 0, token 2 at stage 1.
    fn rollout() -> Rollout {
        let stage = |positions: Vec<u32>, kept: Vec<bool>| StageSample {
            offsets: vec![0, positions.len()],
            tokens: positions.iter().flat_map(|p| [*p as f32; 2]).collect(),
            scalars: vec![0.5; positions.len()],
            contexts: vec![1.0; 2],
            log_probs: vec![-0.1; positions.len()],
            free: vec![true; positions.len()],
            positions,
            kept,
        };
        Rollout {
            stages: vec![stage(vec![0, 1, 2], vec![true, false, true]), stage(vec![0, 2], vec![true, false])],
            divergences: vec![vec![0.2], vec![0.5]],
            predictions: vec![0],
            costs: vec![0.5],
        }
    }

    fn sites() -> [Site; 2] {
        [1, 3].map(Site::input_of)
    }

    fn spec() -> VitSpec {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([16, 48]);
        (spec.dim, spec.depth, spec.attention.heads) = (2, 4, 1);
        // All of the last block counts.
        spec.pooling.pool = Pool::Avg;
        spec
    }

    #[test]
    fn lives_end_when_agents_leave_and_the_blame_follows_them() {
        let config = TrainConfig::default_preset();
        let rewards = PrefixRewards { beta: 0.5, reference: 0.1, softening: 0.0 };
        let assembly = Assembly::new(
            &[rollout()],
            &spec(),
            &sites(),
            &config.critic,
            &Game::Prefix(rewards),
            &[vec![true]],
        );
        let e = &assembly.experience;
        assert_eq!(e.positions, [0, 1, 2, 0, 2]);
        assert_eq!(e.stages, [0, 0, 0, 1, 1]);
        assert_eq!(e.actions, [1, 0, 1, 1, 0]);
        assert_eq!((e.episodes.len(), &e.episodes[0]), (1, &(0..5)));
        assert_eq!(e.context_of, [0, 0, 0, 1, 1]);
        // Class attention, share alive, share of others kept.
        assert_eq!(&e.critic_scalars[..3], [0.5, 1.0, 0.5]);
        assert_eq!(&e.critic_scalars[3..6], [0.5, 1.0, 1.0]);
        assert_eq!(&e.critic_scalars[9..12], [0.5, 2.0 / 3.0, 0.0]);
        let lives: Vec<_> =
            assembly.lives[0][0].iter().map(|l| (l.steps.clone(), l.rewards.clone())).collect();
        let price = |from: f64, to: f64| -0.5 * 3.0 * (to - from) / 0.1;
        let expected: [(Vec<usize>, Vec<f64>); 3] = [
            (vec![0, 3], vec![-0.5 + price(0.0, 0.2), -0.25 + price(0.2, 0.5)]),
            (vec![1], vec![price(0.0, 0.5)]),
            (vec![2, 4], vec![-0.5 + price(0.0, 0.2), price(0.2, 0.5)]),
        ];
        for ((steps, rewards), (expected_steps, expected_rewards)) in lives.iter().zip(&expected) {
            assert_eq!(steps, expected_steps);
            rewards.iter().zip(expected_rewards).for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} {b}"));
        }
    }

    #[test]
    fn who_has_no_choice_takes_no_step_and_its_rent_goes_to_its_last_one() {
        let config = TrainConfig::default_preset();
        let mut rollout = rollout();
        // Token 2 has to stay at the first stage, token 0 at the second; only token 1 leaves.
        rollout.stages[0].free = vec![true, true, false];
        rollout.stages[0].tokens.truncate(4);
        (rollout.stages[1].free, rollout.stages[1].kept) = (vec![false, true], vec![true, true]);
        rollout.stages[1].tokens.drain(..2);
        let rewards = PrefixRewards { beta: 0.5, reference: 0.1, softening: 0.0 };
        let game = Game::Prefix(rewards);
        let correct = [vec![true], vec![true]];
        let assembly =
            Assembly::new(&[rollout.clone(), rollout], &spec(), &sites(), &config.critic, &game, &correct);
        let e = &assembly.experience;
        assert_eq!((&e.positions[..3], &e.stages[..3], e.len()), (&[0, 1, 2][..], &[0, 0, 1][..], 6));
        assert_eq!(e.tokens[..6], [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
        let price = |from: f64, to: f64| -0.5 * 3.0 * (to - from) / 0.1;
        let expected = [
            (vec![0], vec![-0.5 - 0.25 + price(0.0, 0.5)]),
            (vec![1], vec![price(0.0, 0.5)]),
            (vec![2], vec![-0.25 + price(0.2, 0.5)]),
        ];
        for (life, (steps, rewards)) in assembly.lives[0][0].iter().zip(&expected) {
            assert_eq!(&life.steps, steps);
            assert!((life.rewards[0] - rewards[0]).abs() < 1e-9 && life.rewards.len() == 1);
        }
        // Both rollouts are the same: all advantages are 0, except for the critic's part.
        let mut config = config.advantage;
        (config.scaling, config.normalize_returns) = (Scaling::Rms, false);
        let e = assembly.finish(&[0.0; 6], 1.0, &config);
        assert!(e.advantages[..2].iter().all(|a| a.abs() < 1e-6), "{:?}", e.advantages);
        assert!((e.returns[2] + 0.25).abs() < 1e-6, "beyond what the other team received from stage 1 on");
    }

    #[test]
    fn paper_rewards_reach_the_right_agents() {
        let config = TrainConfig::paper_preset();
        let rewards = PaperRewards { prize_at_196: 196.0, keep_ratio: 0.7 };
        let assembly = Assembly::new(
            &[rollout()],
            &spec(),
            &sites(),
            &config.critic,
            &Game::Paper(rewards),
            &[vec![true]],
        );
        // Stage 0: 2 of 3 stay, d = 2/3 - 0.7 < 0: the pruned pay. Stage 1: 1 of 3, d = 1/3 - 0.49 < 0.
        let lives: Vec<&Vec<f64>> = assembly.lives[0][0].iter().map(|l| &l.rewards).collect();
        let penalty = |kept: f64, target: f64| -(-(kept - target)).exp();
        let expected = [vec![1.5, 3.0], vec![penalty(2.0 / 3.0, 0.7)], vec![1.5, penalty(1.0 / 3.0, 0.49)]];
        for (ours, hand) in lives.iter().zip(&expected) {
            ours.iter().zip(hand).for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} {b}"));
        }
        let experience = assembly.finish(&[0.1, 0.2, 0.3, 0.4, 0.5], 1.0, &config.advantage);
        // Returns by hand for token 1: one step, so its return is its reward.
        assert!((f64::from(experience.returns[1]) - expected[1][0]).abs() < 1e-6);
        // Token 0: A_1 = 3 - 0.4 = 2.6; A_0 = 1.5 + 0.99*0.4 - 0.1 + 0.99*0.95*2.6; return = A + V.
        let return_0 = 1.5 + 0.99 * 0.4 - 0.1 + 0.99 * 0.95 * 2.6 + 0.1;
        assert!((f64::from(experience.returns[0]) - return_0).abs() < 1e-5);
        assert!(experience.advantages.iter().sum::<f32>().abs() < 1e-5, "normalised");
    }

    #[test]
    fn the_first_stage_is_judged_against_the_other_rollouts() {
        let config = TrainConfig::default_preset();
        let rewards = PrefixRewards { beta: 0.5, reference: 0.1, softening: 0.0 };
        let mut other = rollout();
        other.stages[0].kept = vec![true, true, true];
        other.stages[1] = StageSample {
            offsets: vec![0, 3],
            positions: vec![0, 1, 2],
            free: vec![true; 3],
            tokens: vec![0.0; 6],
            scalars: vec![0.5; 3],
            contexts: vec![1.0; 2],
            kept: vec![true; 3],
            log_probs: vec![-0.1; 3],
        };
        other.divergences = vec![vec![0.0], vec![0.1]];
        let game = Game::Prefix(rewards);
        let correct = [vec![true], vec![true]];
        let assembly = Assembly::new(&[rollout(), other], &spec(), &sites(), &config.critic, &game, &correct);
        let n = assembly.experience.len();
        assert_eq!(n, 5 + 6);
        let mut config = config.advantage;
        config.scaling = Scaling::Rms;
        let e = assembly.finish(&vec![0.0; n], 1.0, &config);
        // Token 0 in both: returns -0.75 - 7.5 and -0.75 - 1.5; advantages are +-6 before scaling.
        assert!((e.advantages[0] + e.advantages[5]).abs() < 1e-6 && e.advantages[0] < 0.0);
        // Token 1: pruned, -7.5; kept, -0.75 - 1.5 = -2.25; difference -5.25.
        assert!((e.advantages[1] / e.advantages[0] - 5.25 / 6.0).abs() < 1e-5);
        // Token 0 at stage 1 of the first rollout (step 3): its return is -0.25 - 4.5, the other team's
        // from there on -1.5; the critic says 0.
        assert!((e.advantages[3] / e.advantages[0] - (-4.75 + 1.5) / -6.0).abs() < 1e-5);
        assert!((e.returns[3] - (-4.75 + 1.5)).abs() < 1e-5, "the critic learns what the baseline leaves");
    }
}
