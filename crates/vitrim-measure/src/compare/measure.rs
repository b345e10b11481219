//! Images through the dense model and many pruned ones.

use vitrim_data::{Dataset, Loader, LoaderOptions, Order};
use vitrim_prune::Method;
use vitrim_prune::{
    ImageKey, KeepProfile, LearnedPruner, Policy, Pruned, Pruner, ReadOut, first_site, run_from,
};
use vitrim_vit::{Backbone, HostState, PixelBatch, Site, Taps, VitSpec, Want, cost};

use super::CompareOptions;
use super::outcome::Outcome;
use super::setting::{Kind, Setting, Variant};
use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::progress::Progress;

/// The dense model and what was set beside it, on the same images.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Whether images had labels.
    pub labelled: bool,
    /// The dense model.
    pub dense: Outcome,
    /// The dense model's probability of its answer, of each image.
    pub confidences: Vec<f32>,
    /// Diameter of the object of each image, pixels; empty where the data set does not know.
    pub object_sizes: Vec<f32>,
    /// One for each setting.
    pub outcomes: Vec<Outcome>,
}

/// What runs a batch.
enum Runner {
    /// A pruner.
    Alone(Box<dyn Pruner>),
    /// A method with the budgets that the policy gives the same images.
    Following { method: Method, leader: Box<LearnedPruner>, stages: Vec<usize> },
}

/// Runs the first `limit` images of `dataset` through the dense model and through `kind` at each of `settings`; `policy` is
/// the one that it is, or studies.
pub fn measure(
    loaded: &Loaded,
    policy: Option<&Policy>,
    (dataset, limit): (&Dataset, Option<usize>),
    (kind, settings): (&Kind, Vec<Setting>),
    options: &CompareOptions,
    progress: &mut Progress<'_>,
) -> Result<Measured> {
    let (model, spec) = (&loaded.model, &loaded.spec);
    let runners: Vec<Runner> =
        settings.iter().map(|setting| Runner::new(kind, setting, spec, policy)).collect::<Result<_>>()?;
    let (site, taps) =
        first_site(runners.iter().map(Runner::first), spec).unwrap_or((Site::input_of(0), Taps::NONE));
    let loader_options = LoaderOptions {
        batch: options.batch,
        workers: options.workers,
        limit,
        on_bad_image: options.on_bad_image,
        ..LoaderOptions::default()
    };
    let mut outcomes: Vec<Outcome> = settings.into_iter().map(Outcome::new).collect();
    let (mut dense, mut labelled) = (Outcome::new(Setting::Dense), true);
    let (mut confidences, mut object_sizes) = (Vec::new(), Vec::new());
    let mut loader = Loader::new(dataset, Order::Sequential, &loaded.transform, loader_options)?;
    while let Some(batch) = loader.next().transpose()? {
        let keys = batch.keys();
        let mut state = model.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        model.advance(&mut state, site, taps)?;
        let mut unpruned = state.clone();
        model.advance(&mut unpruned, Site::end(spec), Taps::NONE)?;
        let logits = model.finish(&unpruned, Want::Logits)?;
        labelled &= batch.labels.iter().all(Option::is_some);
        let itself = Pruned {
            answer: logits.clone(),
            stages: Vec::new(),
            macs: vec![cost::dense_macs(spec); batch.len()],
        };
        dense.add(spec, &logits, &itself, &batch.labels);
        confidences.extend((0..batch.len()).map(|b| confidence(logits.row(b))));
        object_sizes.extend(batch.indices.iter().filter_map(|index| dataset.object_size(*index)));
        for (runner, outcome) in runners.iter().zip(&mut outcomes) {
            let pruned = runner.run(loaded, state.clone(), &keys)?;
            outcome.add(spec, &logits, &pruned, &batch.labels);
        }
        progress.at(loader.position(), loader.total())?;
    }
    if dense.costs.is_empty() {
        let data = dataset.split().to_owned();
        return Err(MeasureError::Part { data, reason: "no image that can be decoded".into() });
    }
    Ok(Measured { labelled, dense, confidences, object_sizes, outcomes })
}

/// The greatest probability of the softmax of `logits: [C]`.
fn confidence(logits: &[f32]) -> f32 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    1.0 / logits.iter().map(|logit| (logit - greatest).exp()).sum::<f32>()
}

impl Runner {
    fn new(kind: &Kind, setting: &Setting, spec: &VitSpec, policy: Option<&Policy>) -> Result<Self> {
        match (kind, setting, policy) {
            (Kind::Method(method), _, _) => Ok(Runner::Alone(setting.pruner(*method, spec, policy)?)),
            (Kind::Learned { .. } | Kind::Studied { variant: Variant::FixedBudgets, .. }, _, _) => {
                Ok(Runner::Alone(setting.pruner(Method::Policy, spec, policy)?))
            }
            (
                Kind::Studied { variant: Variant::Selection(method), .. },
                Setting::Threshold(threshold),
                Some(policy),
            ) => {
                let read_out = ReadOut::Threshold { threshold: *threshold };
                let leader = Box::new(LearnedPruner::new(spec, policy).with_read_out(read_out));
                Ok(Runner::Following { method: *method, leader, stages: policy.drop_stages() })
            }
            _ => Err(MeasureError::Setting(format!("{kind} has no setting '{setting}'"))),
        }
    }

    /// What acts first. The hand-made selections that follow act at the policy's stages, and later at most.
    fn first(&self) -> &dyn Pruner {
        match self {
            Runner::Alone(pruner) => pruner.as_ref(),
            Runner::Following { leader, .. } => leader.as_ref(),
        }
    }

    fn run(&self, loaded: &Loaded, state: HostState, keys: &[ImageKey]) -> Result<Pruned> {
        match self {
            Runner::Alone(pruner) => Ok(run_from(&loaded.model, pruner.as_ref(), state, keys)?),
            Runner::Following { method, leader, stages } => {
                let led = run_from(&loaded.model, leader.as_ref(), state.clone(), keys)?;
                let budget = |stage: &vitrim_prune::StageRecord| {
                    (0..keys.len()).map(|b| stage.patch_tokens(b)).collect()
                };
                let budgets = led.stages.iter().map(budget).collect();
                let profile = KeepProfile::of_each_image(&loaded.spec, stages, budgets)?;
                let pruner = method.at_profile(&loaded.spec, profile)?;
                Ok(run_from(&loaded.model, pruner.as_ref(), state, keys)?)
            }
        }
    }
}
