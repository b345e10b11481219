//! Rollouts: sampled actions over a frozen backbone, and their results.
//!
//! All rollouts of an image share the blocks before the first stage. A rollout can be forked after a stage: the fork is
//! finished without further pruning, which gives D if pruning stops there.

use std::collections::HashMap;
use std::ops::Range;

use vitrim_prune::divergence::divergences;
use vitrim_prune::policy::{Decision, contexts};
use vitrim_prune::{ImageKey, KeepProfile, LearnedPruner, Pruner, RandomPruner, run_from};
use vitrim_random::uniform;
use vitrim_vit::{Backbone, Output, PixelBatch, Reduction, Site, Taps, View, VitSpec, Want, cost};

use crate::error::Result;

/// The frozen backbone and the images of one update, ready for rollouts.
pub struct RolloutStart<'a, B: Backbone> {
    backbone: &'a B,
    /// The state at the first stage's site, without pruning.
    opening: B::State,
    /// Logits of the dense model, `[I, C]`; its pooled features if it has no head.
    pub dense: Output,
    /// Dense passes that this has run, an image.
    pub passes: f64,
}

/// The dense model's answers by image. They do not change, so that only the first epoch computes them.
#[derive(Default)]
pub struct DenseAnswers {
    of: HashMap<ImageKey, Box<[f32]>>,
}

impl DenseAnswers {
    /// Largest number of values that are kept: 256 MiB.
    const MOST: usize = 64 << 20;

    /// The answers of `images`; `None` if one is not known.
    fn get(&self, images: &[ImageKey]) -> Option<Output> {
        let rows = images.iter().map(|key| self.of.get(key)).collect::<Option<Vec<_>>>()?;
        let width = rows.first()?.len();
        Some(Output { values: rows.iter().flat_map(|row| row.iter().copied()).collect(), width })
    }

    /// Keeps the `answers` of `images`.
    pub fn keep(&mut self, images: &[ImageKey], answers: &Output) {
        for (i, key) in images.iter().enumerate() {
            if (self.of.len() + 1) * answers.width <= Self::MOST {
                self.of.insert(*key, answers.row(i).into());
            }
        }
    }
}

/// One rollout of all I images of an update.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Observations and actions of the agents, `[K]`.
    pub stages: Vec<StageSample>,
    /// D_k of each image when pruning stops after stage k, `[K][I]`. After a stage without a fork: that of the last fork
    /// before, 0 before the first.
    pub divergences: Vec<Vec<f64>>,
    /// Predicted class, `[I]`; without a head, the values have no meaning.
    pub predictions: Vec<usize>,
    /// Token-layers of patch tokens as a share of the dense model's, `[I]`.
    pub costs: Vec<f64>,
}

/// One stage of one rollout: A agents were alive in I images.
#[derive(Clone, Debug)]
pub struct StageSample {
    /// Index of each image's first agent, `[I + 1]`.
    pub offsets: Vec<usize>,
    /// Grid positions, `[A]`.
    pub positions: Vec<u32>,
    /// Embeddings of the F agents that have a choice, `[F, D]`; empty if the actor has no input of that width.
    pub tokens: Vec<f32>,
    /// The actor's scalar inputs, `[A, n]`.
    pub scalars: Vec<f32>,
    /// Class token or mean, `[I, D]`; empty if the actor has no input of that width.
    pub contexts: Vec<f32>,
    /// Whether each agent had a choice, `[A]`.
    pub free: Vec<bool>,
    /// Whether each agent stays, `[A]`.
    pub kept: Vec<bool>,
    /// Log-probability of each action, `[A]`.
    pub log_probs: Vec<f32>,
}

impl StageSample {
    /// Survivors of image `b` after this stage.
    pub fn survivors(&self, b: usize) -> usize {
        self.kept[self.offsets[b]..self.offsets[b + 1]].iter().filter(|k| **k).count()
    }

    /// Agents of image `b` at this stage.
    pub fn agents(&self, b: usize) -> usize {
        self.offsets[b + 1] - self.offsets[b]
    }

    /// Appends the agents of other images at the same stage.
    fn append(&mut self, mut other: StageSample) {
        let before = self.kept.len();
        self.offsets.extend(other.offsets[1..].iter().map(|offset| before + offset));
        self.positions.append(&mut other.positions);
        self.tokens.append(&mut other.tokens);
        self.scalars.append(&mut other.scalars);
        self.contexts.append(&mut other.contexts);
        self.free.append(&mut other.free);
        self.kept.append(&mut other.kept);
        self.log_probs.append(&mut other.log_probs);
    }
}

impl Rollout {
    /// N0 of image `b`: all its patch tokens act at the first stage.
    pub fn num_patches(&self, b: usize) -> usize {
        self.stages[0].agents(b)
    }

    /// Appends a rollout of other images under the same policy.
    pub fn append(&mut self, mut other: Rollout) {
        for (stage, more) in self.stages.iter_mut().zip(other.stages) {
            stage.append(more);
        }
        for (of_stage, more) in self.divergences.iter_mut().zip(&mut other.divergences) {
            of_stage.append(more);
        }
        self.predictions.append(&mut other.predictions);
        self.costs.append(&mut other.costs);
    }

    /// `passes`, and the dense passes an image of this rollout, from the first of its `sites` on, and of its `forks`.
    pub fn add_passes(&self, mut passes: f64, spec: &VitSpec, sites: &[Site], forks: &Range<usize>) -> f64 {
        let images = self.predictions.len();
        let behind = self.stages.iter().zip(sites).enumerate().take(sites.len() - 1);
        for (_, (stage, site)) in behind.filter(|(k, _)| forks.contains(k)) {
            let alive = (0..images).map(|b| stage.survivors(b)).sum::<usize>() as f64;
            passes += alive / self.stages[0].kept.len() as f64 * (1.0 - share_before(spec, *site));
        }
        passes + (self.costs.iter().sum::<f64>() / images as f64 - share_before(spec, sites[0]))
    }
}

impl<'a, B: Backbone> RolloutStart<'a, B> {
    /// Runs `pixels` of `images` to the site `first` and, unless all their answers are `known`, a fork of the state
    /// densely to the end.
    ///
    /// # Errors
    /// Errors of the backbone.
    pub fn open(
        backbone: &'a B,
        pixels: PixelBatch<'_>,
        images: &[ImageKey],
        first: (Site, Taps),
        known: &DenseAnswers,
    ) -> Result<Self> {
        let mut opening = backbone.embed(pixels)?;
        backbone.advance(&mut opening, first.0, first.1)?;
        let (dense, passes) = match known.get(images) {
            Some(dense) => (dense, share_before(backbone.spec(), first.0)),
            None => (finish_dense(backbone, opening.clone())?, 1.0),
        };
        Ok(RolloutStart { backbone, opening, dense, passes })
    }

    /// One rollout under `policy`, its actions keyed by (`key`.., image, stage, token), and forked after the stages
    /// `forks`; after the last one there is nothing to fork.
    ///
    /// # Errors
    /// Errors of the backbone.
    pub fn play(
        &self,
        policy: &LearnedPruner,
        key: [u64; 3],
        images: &[ImageKey],
        forks: Range<usize>,
    ) -> Result<Rollout> {
        let spec = self.backbone.spec();
        let mut state = self.opening.clone();
        let mut stages = Vec::new();
        let mut by_stage: Vec<Vec<f64>> = Vec::new();
        let sites = policy.sites(spec);
        for (stage, &(site, taps)) in sites.iter().enumerate() {
            self.backbone.advance(&mut state, site, taps)?;
            let view = self.backbone.view(&state)?;
            let (sample, reduction) =
                sample_stage(policy, stage, &view, key, images, spec.min_patch_tokens())?;
            self.backbone.reduce(&mut state, &reduction)?;
            if stage + 1 < sites.len() {
                by_stage.push(if forks.contains(&stage) {
                    divergences(spec, &self.dense, &finish_dense(self.backbone, state.clone())?)
                } else {
                    by_stage.last().cloned().unwrap_or_else(|| vec![0.0; images.len()])
                });
            }
            stages.push(sample);
        }
        let answer = finish_dense(self.backbone, state)?;
        by_stage.push(divergences(spec, &self.dense, &answer));
        let grids = self.backbone.view(&self.opening)?.grids.to_vec();
        let costs: Vec<f64> = (0..images.len())
            .map(|b| {
                let survivors: Vec<_> =
                    sites.iter().zip(&stages).map(|((site, _), s)| (*site, s.survivors(b))).collect();
                cost::token_layer_share(&spec.of_grid(grids[b]), &survivors)
            })
            .collect();
        Ok(Rollout { stages, divergences: by_stage, predictions: answer.argmax(), costs })
    }

    /// Dissimilarity of the first stage's agents and their partners, for the agents of each image that have a choice
    /// under `policy`.
    ///
    /// # Errors
    /// Errors of the backbone.
    pub fn unlikeness(&self, policy: &LearnedPruner) -> Result<Vec<Vec<f32>>> {
        let view = self.backbone.view(&self.opening)?;
        let decision = policy.decision(0, &view)?;
        let of_row = |row: usize| decision.unlikeness(policy.observation(), row);
        Ok((0..view.batch()).map(|b| view.patch_rows(b).filter_map(of_row).collect()).collect())
    }

    /// D of each image under `random` at keep ratio rho, rho^2, ... before `blocks`.
    ///
    /// # Errors
    /// Errors of the backbone.
    pub fn random_divergences(
        &self,
        keep_ratio: f64,
        blocks: &[usize],
        seed: u64,
        images: &[ImageKey],
    ) -> Result<Vec<f64>> {
        let shares: Vec<f64> = (1..=blocks.len()).map(|k| keep_ratio.powi(k as i32)).collect();
        let profile = KeepProfile::new(self.backbone.spec(), blocks, &shares)?;
        let pruner = RandomPruner::new(profile, seed);
        let pruned = run_from(self.backbone, &pruner, self.opening.clone(), images)?;
        Ok(divergences(self.backbone.spec(), &self.dense, &pruned.answer))
    }
}

/// Actions of all agents alive at `stage`, and the resulting reduction.
fn sample_stage(
    policy: &LearnedPruner,
    stage: usize,
    view: &View<'_>,
    key: [u64; 3],
    images: &[ImageKey],
    at_least: usize,
) -> Result<(StageSample, Reduction)> {
    let decision = policy.decision(stage, view)?;
    let Decision { logits, scalars, .. } = &decision;
    let (width, embedded) = (scalars.len() / view.total().max(1), policy.actor_spec().dim > 0);
    let mut sample = StageSample {
        offsets: vec![0],
        positions: Vec::new(),
        tokens: Vec::new(),
        scalars: Vec::new(),
        contexts: if embedded { contexts(view) } else { Vec::new() },
        free: Vec::new(),
        kept: Vec::new(),
        log_probs: Vec::new(),
    };
    let mut flags = vec![true; view.total()];
    for (b, image) in images.iter().enumerate() {
        let rows = view.patch_rows(b);
        let mut kept = 0;
        for row in rows.clone() {
            let position = view.origins[row].grid().expect("agents are patch tokens");
            let drawn = uniform(&[key[0], key[1], key[2], *image, stage as u64, position as u64]);
            flags[row] = drawn < f64::from(sigmoid(logits[row]));
            kept += usize::from(flags[row]);
            sample.positions.push(position as u32);
        }
        // If the network needs a patch token, the one with the highest p_keep stays; this is recorded as its action.
        if kept < at_least
            && let Some(row) = rows.clone().max_by(|&i, &j| logits[i].total_cmp(&logits[j]).then(j.cmp(&i)))
        {
            flags[row] = true;
        }
        sample.scalars.extend_from_slice(&scalars[rows.start * width..rows.end * width]);
        for row in rows {
            let free = decision.may_leave(row);
            if free && embedded {
                sample.tokens.extend_from_slice(view.token(row));
            }
            sample.free.push(free);
            sample.kept.push(flags[row]);
            sample.log_probs.push(log_sigmoid(if flags[row] { logits[row] } else { -logits[row] }));
        }
        sample.offsets.push(sample.kept.len());
    }
    let reduction = decision.reduction(view, &flags);
    Ok((sample, reduction))
}

/// The layers before `site` as a share of all ([`cost::layers`]): what a dense pass has done there.
fn share_before(spec: &VitSpec, site: Site) -> f64 {
    cost::layers_before(spec, site) / cost::layers(spec)
}

fn finish_dense<B: Backbone>(backbone: &B, mut state: B::State) -> Result<Output> {
    backbone.advance_to_answer(&mut state)?;
    Ok(backbone.finish(&state, Want::answer(backbone.spec()))?)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn log_sigmoid(x: f32) -> f32 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use vitrim_prune::Policy;
    use vitrim_prune::policy::BackboneId;
    use vitrim_vit::{CpuBackbone, Pool, Tensors};

    use super::*;

    const IMAGES: [ImageKey; 3] = [5, 6, 7];

    fn backbone() -> (CpuBackbone, LearnedPruner) {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
        (spec.dim, spec.depth, spec.num_classes, spec.patch_size) = (24, 4, 3, 8);
        (spec.attention.heads, spec.mlp.hidden) = (3, 48);
        // All of the last block counts.
        spec.pooling.pool = Pool::Avg;
        let tensors = Tensors::random(&spec, 1);
        let id = BackboneId::of(&spec, &tensors).unwrap();
        let policy = Policy::untrained(&spec, id, &[1, 2, 3], &[0.7, 0.5, 0.3]);
        (CpuBackbone::new(&spec, &tensors).unwrap(), LearnedPruner::new(&spec, &policy))
    }

    #[test]
    fn an_image_of_any_shape_is_played_as_if_it_were_alone() {
        let (backbone, _) = backbone();
        let mut spec = backbone.spec().clone();
        spec.embedding.position_grid = Some([4, 4]);
        let tensors = Tensors::random(&spec, 1);
        let id = BackboneId::of(&spec, &tensors).unwrap();
        let policy = Policy::untrained(&spec, id, &[1, 2, 3], &[0.7, 0.5, 0.3]);
        let pruner = LearnedPruner::new(&spec, &policy);
        let backbone = CpuBackbone::new(&spec, &tensors).unwrap();
        let sizes = [[16, 40], [32, 32], [56, 8]];
        let values = |[h, w]: [usize; 2]| (0..3 * h * w).map(move |i| ((i * 7 + h) as f32 * 0.1).sin());
        let first = pruner.sites(&spec)[0];
        let play = |sizes: &[[usize; 2]], images: &[ImageKey]| {
            let pixels: Vec<f32> = sizes.iter().flat_map(|size| values(*size)).collect();
            let pixels = PixelBatch::of_sizes(&pixels, sizes);
            let start =
                RolloutStart::open(&backbone, pixels, images, first, &DenseAnswers::default()).unwrap();
            start.play(&pruner, [0, 1, 2], images, 0..2).unwrap()
        };
        let together = play(&sizes, &IMAGES);
        assert!(together.costs.iter().all(|cost| (0.3..1.0).contains(cost)), "{:?}", together.costs);
        for (i, size) in sizes.into_iter().enumerate() {
            let alone = play(&[size], &IMAGES[i..=i]);
            assert_eq!(together.num_patches(i), size[0] / 8 * (size[1] / 8));
            assert_eq!(alone.num_patches(0), together.num_patches(i));
            assert_eq!(alone.costs[0], together.costs[i]);
            for (one, all) in alone.stages.iter().zip(&together.stages) {
                assert_eq!(one.kept, all.kept[all.offsets[i]..all.offsets[i + 1]]);
            }
            for (one, all) in alone.divergences.iter().zip(&together.divergences) {
                assert_eq!(one[0], all[i]);
            }
        }
    }

    fn open<'a>(
        backbone: &'a CpuBackbone,
        policy: &LearnedPruner,
        known: &DenseAnswers,
    ) -> RolloutStart<'a, CpuBackbone> {
        let pixels: Vec<f32> = (0..3 * 3 * 32 * 32).map(|i| uniform(&[3, i]) as f32).collect();
        let first = policy.sites(backbone.spec())[0];
        RolloutStart::open(backbone, PixelBatch::new(&pixels, 3), &IMAGES, first, known).unwrap()
    }

    #[test]
    fn without_a_fork_d_is_that_of_the_last_fork() {
        let (backbone, policy) = backbone();
        let play = |forks| {
            let start = open(&backbone, &policy, &DenseAnswers::default());
            let rollout = start.play(&policy, [1, 2, 3], &IMAGES, Range::clone(&forks)).unwrap();
            let sites: Vec<Site> = policy.sites(backbone.spec()).iter().map(|(site, _)| *site).collect();
            let passes = rollout.add_passes(start.passes, backbone.spec(), &sites, &forks);
            (rollout, passes)
        };
        let ((all, most), (one, some), (none, least)) = (play(0..3), play(1..2), play(0..0));
        let d = &all.divergences;
        assert!(d.iter().all(|of_stage| of_stage.iter().all(|d| *d > 0.0)), "{d:?}");
        assert_eq!(one.divergences, [vec![0.0; 3], d[1].clone(), d[2].clone()]);
        assert_eq!(none.divergences, [vec![0.0; 3], vec![0.0; 3], d[2].clone()]);
        // The dense pass, and the rollout behind the first stage, a quarter of the depth in; forks after stages 1 and 2
        // run the blocks that are left.
        let cost = all.costs.iter().sum::<f64>() / 3.0;
        assert!((least - (1.0 + cost - 0.25)).abs() < 1e-9, "{least}");
        let alive = |k: usize| (0..3).map(|b| all.stages[k].survivors(b)).sum::<usize>() as f64 / 48.0;
        assert!((some - least - alive(1) * 0.5).abs() < 1e-9, "{some}");
        assert!((most - least - alive(0) * 0.75 - alive(1) * 0.5).abs() < 1e-9, "{most}");
    }

    #[test]
    fn known_answers_are_not_computed_again() {
        let (backbone, policy) = backbone();
        let mut known = DenseAnswers::default();
        let first = open(&backbone, &policy, &known);
        known.keep(&IMAGES, &first.dense);
        let second = open(&backbone, &policy, &known);
        assert_eq!((first.passes, second.passes), (1.0, 0.25));
        assert_eq!((first.dense.values, first.dense.width), (second.dense.values, second.dense.width));
    }
}
