//! How much each stage of a policy takes, relative to the others, found on unlabelled images.
//!
//! One threshold reads out all stages. Where that takes more from one stage than D per MAC justifies, because the policy
//! was trained at another cost or on another backbone, an offset of the stage's logits corrects it.

use vitrim_vit::{Backbone, CpuBackbone, HostState, Output, PixelBatch, Want};

use super::learned::LearnedPruner;
use super::{Policy, ReadOut};
use crate::divergence::divergences;
use crate::pruner::{ImageKey, Pruner, Result, Tell};
use crate::run::run_from;

/// Images that a policy is balanced on, unless there are fewer.
pub const BALANCE_IMAGES: usize = 64;

/// Thresholds that the search chooses its own from, as logits: first, last and distance.
const LOGITS: (f32, f32, f32) = (-14.0, 10.0, 2.0);
/// Where the search measures, as shares of the way from the dense cost to the cost at the last threshold.
const MEASURED: [f64; 4] = [0.15, 0.4, 0.65, 0.9];
/// Where it compares, between those.
const COMPARED: [f64; 3] = [0.275, 0.525, 0.775];
/// Changes of a stage's logits that are tried.
const STEPS: [f32; 2] = [1.5, 0.75];
/// The least gain of a change, in nats of D: smaller ones are noise.
const LEAST_GAIN: f64 = 0.005;
/// D below which differences are rounding.
const LEAST_DIVERGENCE: f64 = 1e-6;

/// Offsets of the stages' logits, `[K]`, at which `policy` reaches less D at the same cost on the images `pixels`, over a
/// range of costs: stage by stage, a change is kept if it helps. They replace the policy's own. `tell(done, all)` is called
/// after each of the steps.
///
/// # Errors
/// Errors of the backbone or the policy, or of `tell`, which stop the search.
pub fn balance(
    model: &CpuBackbone,
    policy: &Policy,
    pixels: PixelBatch<'_>,
    tell: Tell<'_>,
) -> Result<Vec<f32>> {
    let stages = policy.stages.len();
    let mut offsets = if policy.offsets.is_empty() { vec![0.0; stages] } else { policy.offsets.clone() };
    let scales = Scales::new(model, policy, pixels, &offsets)?;
    let mut best = scales.weigh(&offsets)?;
    let all = STEPS.len() * stages;
    for (round, step) in STEPS.into_iter().enumerate() {
        for stage in 0..stages {
            for change in [step, -step] {
                let mut changed = offsets.clone();
                changed[stage] += change;
                let weight = scales.weigh(&changed)?;
                if weight < best - LEAST_GAIN {
                    (offsets, best) = (changed, weight);
                    break;
                }
            }
            tell(round * stages + stage + 1, all)?;
        }
    }
    Ok(offsets)
}

/// What offsets are compared by.
struct Scales<'a> {
    model: &'a CpuBackbone,
    policy: &'a Policy,
    images: Vec<ImageKey>,
    /// The images at the first stage.
    start: HostState,
    dense: Output,
    /// MACs of all images without pruning.
    dense_macs: f64,
    /// Thresholds, as logits, ascending, at which offsets are measured.
    logits: Vec<f32>,
    /// Costs at which they are compared.
    costs: Vec<f64>,
}

/// Mean cost, and logarithm of the mean D.
type Weighed = (f64, f64);

impl<'a> Scales<'a> {
    fn new(
        model: &'a CpuBackbone,
        policy: &'a Policy,
        pixels: PixelBatch<'_>,
        offsets: &[f32],
    ) -> Result<Self> {
        let spec = model.spec();
        let mut start = model.embed(pixels)?;
        let (site, taps) = LearnedPruner::new(spec, policy).sites(spec)[0];
        model.advance(&mut start, site, taps)?;
        let mut scales = Scales {
            model,
            policy,
            images: (0..pixels.batch as u64).collect(),
            start,
            dense: model.dense(pixels, Want::answer(spec))?,
            dense_macs: 0.0,
            logits: Vec::new(),
            costs: Vec::new(),
        };
        let grids = pixels.grids(spec);
        let macs = grids.iter().map(|grid| vitrim_vit::cost::dense_macs(&spec.of_grid(*grid)) as f64);
        scales.dense_macs = macs.sum();
        let (first, last, step) = LOGITS;
        let grid: Vec<f32> =
            (0..).map(|i| first + step * i as f32).take_while(|logit| *logit <= last).collect();
        let curve = scales.curve(offsets, &grid)?;
        let least = curve.iter().map(|(cost, _)| *cost).fold(1.0, f64::min);
        let at = |share: &f64| 1.0 - share * (1.0 - least);
        scales.costs = COMPARED.iter().map(at).collect();
        scales.logits = MEASURED.iter().map(|share| logit_at(&grid, &curve, at(share))).collect();
        Ok(scales)
    }

    /// The mean over the compared costs of ln D.
    fn weigh(&self, offsets: &[f32]) -> Result<f64> {
        let curve = self.curve(offsets, &self.logits)?;
        Ok(self.costs.iter().map(|cost| divergence_at(&curve, *cost)).sum::<f64>() / self.costs.len() as f64)
    }

    /// Cost and ln D at thresholds of `logits`.
    fn curve(&self, offsets: &[f32], logits: &[f32]) -> Result<Vec<Weighed>> {
        let spec = self.model.spec();
        let at = |logit: &f32| {
            let threshold = super::read_out::keep_probability(*logit);
            let pruner = LearnedPruner::new(spec, self.policy)
                .with_offsets(offsets)
                .with_read_out(ReadOut::Threshold { threshold });
            let pass = || run_from(self.model, &pruner, self.start.clone(), &self.images);
            let pruned = self.model.enter(pass)?;
            let all = divergences(spec, &self.dense, &pruned.answer);
            let macs: f64 = pruned.macs.iter().map(|macs| *macs as f64).sum();
            let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
            Ok((macs / self.dense_macs, mean.max(LEAST_DIVERGENCE).ln()))
        };
        logits.iter().map(at).collect()
    }
}

/// The threshold of `logits`, ascending, at which the cost is `cost`, which falls along `curve`.
fn logit_at(logits: &[f32], curve: &[Weighed], cost: f64) -> f32 {
    let after = curve.partition_point(|(c, _)| *c > cost).clamp(1, curve.len() - 1);
    let (high, low) = (curve[after - 1].0, curve[after].0);
    let share = if high > low { ((high - cost) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
    logits[after - 1] + share as f32 * (logits[after] - logits[after - 1])
}

/// ln D at `cost`, on the straight line through the two nearest of the points of `curve`, whose costs fall.
fn divergence_at(curve: &[Weighed], cost: f64) -> f64 {
    let after = curve.partition_point(|(c, _)| *c > cost).clamp(1, curve.len() - 1);
    let ((high, before), (low, behind)) = (curve[after - 1], curve[after]);
    let share = if high > low { (high - cost) / (high - low) } else { 0.0 };
    before + share * (behind - before)
}

#[cfg(test)]
mod tests {
    use vitrim_vit::{Tensors, VitSpec};

    use super::*;
    use crate::policy::BackboneId;

    #[test]
    fn points_lie_on_the_curve() {
        let curve = [(1.0, -9.0), (0.8, -5.0), (0.6, -3.0)];
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        near(divergence_at(&curve, 0.9), -7.0);
        near(divergence_at(&curve, 0.6), -3.0);
        near(divergence_at(&curve, 0.5), -2.0);
        let logits = [-4.0, 0.0, 2.0];
        assert!((logit_at(&logits, &curve, 0.7) - 1.0).abs() < 1e-6);
        assert_eq!((logit_at(&logits, &curve, 2.0), logit_at(&logits, &curve, 0.1)), (-4.0, 2.0));
    }

    #[test]
    fn stages_that_take_too_much_are_held_back() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 64]);
        (spec.dim, spec.depth, spec.num_classes) = (24, 4, 5);
        (spec.attention.heads, spec.mlp.hidden) = (3, 48);
        let Tensors::Owned(mut tensors) = Tensors::random(&spec, 1) else { panic!("random ones are owned") };
        // Large enough for tokens to matter.
        for (name, (_, values)) in tensors.iter_mut().filter(|(name, _)| name.ends_with("weight")) {
            values.iter_mut().filter(|_| !name.contains("norm")).for_each(|v| *v *= 10.0);
        }
        let tensors = Tensors::Owned(tensors);
        let id = BackboneId::of(&spec, &tensors).unwrap();
        let model = CpuBackbone::new(&spec, &tensors).unwrap();
        let values: Vec<f32> = (0..8 * 3 * 64 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let pixels = PixelBatch::new(&values, 8);
        let mut policy = Policy::untrained(&spec, id, &[1, 2, 3], &[0.7, 0.5, 0.3]);
        // The last stage, where leaving saves least, takes all; the first nothing.
        policy.offsets = vec![6.0, 0.0, -6.0];
        let scales = Scales::new(&model, &policy, pixels, &policy.offsets).unwrap();
        let mut steps = Vec::new();
        let offsets = balance(&model, &policy, pixels, &mut |done, all| {
            steps.push((done, all));
            Ok(())
        })
        .unwrap();
        let before = scales.weigh(&policy.offsets).unwrap();
        let after = scales.weigh(&offsets).unwrap();
        assert!(after < before - LEAST_GAIN, "{before} {after}, {offsets:?}");
        assert_eq!(steps, (1..=6).map(|done| (done, 6)).collect::<Vec<_>>());
        let stopped =
            balance(&model, &policy, pixels, &mut |_, _| Err(vitrim_vit::VitError::Interrupted.into()));
        assert!(stopped.is_err());
    }
}
