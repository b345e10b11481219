//! Runs images through the dense model and many pruned ones.

use vitrim_data::{Dataset, Order};
use vitrim_prune::{KeepProfile, Method, Pruned, Pruner};
use vitrim_ranks::{RankError, Ranks};
use vitrim_vit::VitSpec;

use super::CompareOptions;
use super::outcome::Outcome;
use super::setting::{Basis, Setting, Subject, Variant};
use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::passes::{Pass, PassBatch, PassOptions, each_batch, start};
use crate::progress::Progress;

/// Outcomes of the dense model and of all settings, on the same images.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Whether the images had labels.
    pub labelled: bool,
    /// The dense model.
    pub dense: Outcome,
    /// The dense model's probability of its answer, for each image.
    pub confidences: Vec<f32>,
    /// Diameter of the object in each image, pixels; empty if the data set does not have it.
    pub object_sizes: Vec<f32>,
    /// One outcome for each setting.
    pub outcomes: Vec<Outcome>,
}

/// How a batch is run at a setting.
enum Runner {
    /// With a pruner.
    Alone(Box<dyn Pruner>),
    /// With a method that gets the budgets that the policy gives to the same images.
    Following { method: Method, leader: Box<dyn Pruner>, stages: Vec<usize> },
}

/// Runs the first `limit` images of `dataset` through the dense model and through `subject` at each of `settings`: of
/// several ranks, each runs consecutive batches, and all get the outcomes of all images.
/// `basis` has the policy that `subject` is or studies, or the fit of the method.
pub fn measure(
    loaded: &Loaded,
    basis: Basis<'_>,
    (dataset, limit): (&Dataset, Option<usize>),
    measured: (&Subject, Vec<Setting>),
    options: &CompareOptions,
    progress: &mut Progress<'_>,
) -> Result<Measured> {
    let ranks = &options.ranks;
    let whole = if ranks.is_alone() {
        measure_own(loaded, basis, (dataset, 0, limit), measured, options, progress)?
    } else {
        let images = limit.map_or(dataset.len(), |limit| limit.min(dataset.len()));
        let batches = ranks.share(images.div_ceil(options.pass.batch));
        let first = batches.start * options.pass.batch;
        let count = images.min(batches.end * options.pass.batch) - first;
        let own = measure_own(loaded, basis, (dataset, first, Some(count)), measured, options, progress);
        if own.as_ref().is_err_and(MeasureError::is_interruption) {
            ranks.interrupt();
        }
        together(own?, ranks)?
    };
    if whole.dense.costs.is_empty() {
        let data = dataset.split().to_owned();
        return Err(MeasureError::Part { data, reason: "no image that can be decoded".into() });
    }
    Ok(whole)
}

/// The outcomes of all ranks, one behind the other.
fn together(own: Measured, ranks: &Ranks) -> Result<Measured> {
    let tokens = |measured: &Measured| -> Vec<(Vec<usize>, usize)> {
        measured.outcomes.iter().map(|outcome| (outcome.patch_tokens.clone(), outcome.patches)).collect()
    };
    let bytes = serde_json::to_vec(&(&own, tokens(&own))).expect("figures are plain data");
    let (all, _) = ranks.gather(bytes)?;
    let mut whole: Option<Measured> = None;
    for (rank, bytes) in all.iter().enumerate() {
        let (mut more, tokens): (Measured, Vec<(Vec<usize>, usize)>) =
            serde_json::from_slice(bytes).map_err(|_| RankError::Damaged(rank))?;
        for (outcome, tokens) in more.outcomes.iter_mut().zip(tokens) {
            (outcome.patch_tokens, outcome.patches) = tokens;
        }
        match &mut whole {
            None => whole = Some(more),
            Some(whole) => whole.append(more),
        }
    }
    Ok(whole.expect("a rank has itself"))
}

impl Measured {
    /// Adds the images of `next` behind its own.
    fn append(&mut self, mut next: Measured) {
        self.labelled &= next.labelled;
        self.dense.append(next.dense);
        self.confidences.append(&mut next.confidences);
        self.object_sizes.append(&mut next.object_sizes);
        self.outcomes.iter_mut().zip(next.outcomes).for_each(|(outcome, more)| outcome.append(more));
    }
}

/// The same for `limit` images from the image `first` on, by this process alone.
fn measure_own(
    loaded: &Loaded,
    basis: Basis<'_>,
    (dataset, first, limit): (&Dataset, usize, Option<usize>),
    (subject, settings): (&Subject, Vec<Setting>),
    options: &CompareOptions,
    progress: &mut Progress<'_>,
) -> Result<Measured> {
    let spec = &loaded.spec;
    let runners: Vec<Runner> =
        settings.iter().map(|setting| Runner::new(subject, setting, spec, basis)).collect::<Result<_>>()?;
    let mut outcomes: Vec<Outcome> = settings.into_iter().map(Outcome::new).collect();
    let (mut dense, mut labelled) = (Outcome::new(Setting::Dense), true);
    let (mut confidences, mut object_sizes) = (Vec::new(), Vec::new());
    let pass = Pass {
        loaded,
        dataset,
        order: Order::Sequential,
        options: &PassOptions { skip: first, images: limit, ..options.pass },
        start: start(runners.iter().map(Runner::first), spec),
        dense: None,
    };
    each_batch(pass, progress, &mut |batch| {
        let (logits, images) = (batch.dense, batch.images);
        labelled &= images.labels.iter().all(Option::is_some);
        let itself = Pruned {
            answer: logits.clone(),
            stages: Vec::new(),
            macs: batch.dense_macs(),
            grids: batch.grids().to_vec(),
        };
        dense.add(spec, logits, &itself, &images.labels);
        confidences.extend((0..images.len()).map(|b| max_probability(logits.row(b))));
        object_sizes.extend(images.indices.iter().filter_map(|index| dataset.object_size(*index)));
        for (runner, outcome) in runners.iter().zip(&mut outcomes) {
            outcome.add(spec, logits, &runner.run(spec, batch)?, &images.labels);
        }
        Ok(())
    })?;
    Ok(Measured { labelled, dense, confidences, object_sizes, outcomes })
}

/// The largest probability of the softmax of `logits: [C]`.
fn max_probability(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    1.0 / logits.iter().map(|logit| (logit - max).exp()).sum::<f32>()
}

impl Runner {
    fn new(subject: &Subject, setting: &Setting, spec: &VitSpec, basis: Basis<'_>) -> Result<Self> {
        match (subject, setting, basis.policy) {
            (Subject::Method(method), _, _) => Ok(Runner::Alone(setting.pruner(*method, spec, basis)?)),
            (Subject::Learned { .. } | Subject::Studied { variant: Variant::FixedBudgets, .. }, _, _) => {
                Ok(Runner::Alone(setting.pruner(Method::Policy, spec, basis)?))
            }
            (
                Subject::Studied { variant: Variant::Selection(method), .. },
                Setting::Threshold(threshold),
                Some(policy),
            ) => {
                let leader = policy.pruner_at(spec, &policy.at_setting(*threshold))?;
                Ok(Runner::Following { method: *method, leader, stages: policy.drop_stages(spec)? })
            }
            _ => Err(MeasureError::Setting(format!("{subject} has no setting '{setting}'"))),
        }
    }

    /// The pruner that acts first. Hand-made selections with the policy's budgets act at the policy's stages, or
    /// later.
    fn first(&self) -> &dyn Pruner {
        match self {
            Runner::Alone(pruner) => pruner.as_ref(),
            Runner::Following { leader, .. } => leader.as_ref(),
        }
    }

    fn run(&self, spec: &VitSpec, batch: &PassBatch<'_>) -> Result<Pruned> {
        match self {
            Runner::Alone(pruner) => batch.pruned(pruner.as_ref()),
            Runner::Following { method, leader, stages } => {
                let led = batch.pruned(leader.as_ref())?;
                let budget = |stage: &vitrim_prune::StageRecord| {
                    (0..batch.keys.len()).map(|b| stage.patch_tokens(b)).collect()
                };
                let budgets = led.stages.iter().map(budget).collect();
                let profile = KeepProfile::of_each_image(spec, stages, budgets)?;
                batch.pruned(method.at_profile(spec, profile)?.as_ref())
            }
        }
    }
}
