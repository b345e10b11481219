//! What pruning costs and gains on given images: the policy, and the hand-made methods at its cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, Corruption, Dataset, Loader, LoaderOptions, OnBadImage, Order};
use vitrim_prune::Method;
use vitrim_prune::{ImageKey, LearnedPruner, Policy, Pruner, first_site, run_from};
use vitrim_vit::{Backbone, Output, PixelBatch, Site, Taps, Want, cost};

use crate::error::{MeasureError, Result};
use crate::front::Measure;
use crate::metrics::{CostSpread, Metrics};
use crate::model::Loaded;
use crate::progress::Progress;
use crate::speed::{Pixels, SpeedOptions, SpeedUp, speed_up};
use crate::statistics::{Confidence, Loss};

/// Batch sizes at which speed is measured, and the images that go into a round of each at most.
const SPEED_BATCHES: [(usize, usize); 2] = [(1, 64), (32, SPEED_IMAGES)];
/// Images that are kept in memory for it.
const SPEED_IMAGES: usize = 256;
/// Time to measure a method's speed for at one batch size where nobody says, seconds.
pub const SPEED_SECONDS: f64 = 4.0;
/// Least rounds of dense and pruned.
const SPEED_ROUNDS: usize = 5;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Images a batch.
    pub batch: usize,
    /// Decoding threads; 0 for one a core.
    pub workers: usize,
    /// Only the first so many images.
    pub images: Option<usize>,
    /// What a corrupt image does.
    pub on_bad_image: OnBadImage,
    /// What is done to every image first.
    pub corruption: Option<Corruption>,
    /// Methods to compare.
    pub methods: Vec<Method>,
    /// The hand-made methods see the first so many images alone, in whole batches; none for all of them.
    pub hand_made_images: Option<usize>,
    /// Stages and shares of N0 for the hand-made methods where there is no policy to match.
    pub profile: Option<(Vec<usize>, Vec<f64>)>,
    /// Seconds to measure each method's images/s for at each batch size; none for not at all.
    pub speed: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Images seen.
    pub images: usize,
    /// Images that had a label.
    pub labelled: usize,
    /// Corrupt images left out.
    pub bad_images: usize,
    /// Top-1 of the dense model, percent; null without labels.
    pub dense_top1: Option<f64>,
    /// MACs of the dense model an image, in units of 1e9.
    pub dense_gmacs: f64,
    /// One for each method, in the order asked for.
    pub methods: Vec<MethodReport>,
}

/// One method's figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodReport {
    /// Its name.
    pub method: String,
    /// The first images of the evaluation's that it saw; null for all of them.
    #[serde(default)]
    pub images: Option<usize>,
    /// Top-1, percent; null without labels.
    pub top1: Option<f64>,
    /// Dense minus pruned top-1, pp; null without labels.
    pub drop_pp: Option<f64>,
    /// Paired 95 % interval of the drop, pp; without labels, of the disagreement, and without classes, of the drift.
    pub interval_pp: (f64, f64),
    /// Images on which the class differs from the dense model's, percent; null without classes.
    pub disagreement: Option<f64>,
    /// Drift of the features of a backbone without classes, 100 (1 - cos), percent; null with classes.
    #[serde(default)]
    pub drift: Option<f64>,
    /// Mean D = 9 KL at temperature 3 to the dense prediction, nats; 1 - cos of the features without classes.
    pub fidelity: f64,
    /// Mean share of N0 left after each stage, `[K]`.
    pub keep_ratio: Vec<f64>,
    /// Mean MACs an image, in units of 1e9, the method's own scoring included.
    pub gmacs: f64,
    /// The same as a share of the dense model's.
    pub cost: f64,
    /// How the share differs between images.
    pub cost_spread: CostSpread,
    /// Images/s beside the dense model's; empty if not measured.
    pub speed: Vec<SpeedUp>,
}

impl Evaluation {
    /// What the methods' losses are of.
    pub fn measure(&self) -> Measure {
        match self.methods.iter().any(|method| method.drift.is_some()) {
            true => Measure::Drift,
            false if self.labelled > 0 => Measure::Drop,
            false => Measure::Disagreement,
        }
    }
}

impl MethodReport {
    /// Its name, and on how many images it was measured if not on all, as tables have it.
    pub fn label(&self) -> String {
        match self.images {
            None => self.method.clone(),
            Some(images) => format!("{} (first {images})", self.method),
        }
    }

    /// What it loses: the drop, else the drift, else the disagreement.
    pub fn loss(&self) -> f64 {
        self.drop_pp.or(self.drift).or(self.disagreement).unwrap_or_default()
    }
}

/// A method while it is measured.
struct Contender {
    method: Method,
    pruner: Box<dyn Pruner>,
    metrics: Metrics,
}

/// The dense model's answers, and pixels to time with.
#[derive(Default)]
struct Dense {
    /// Logits of each batch, or features.
    answers: Vec<Output>,
    right: usize,
    labelled: usize,
    images: usize,
    /// Position of each image in the data set.
    indices: Vec<usize>,
    bad_images: usize,
    pixels: Vec<f32>,
    keys: Vec<ImageKey>,
}

/// What single images and patches say about the policy.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Position of each image in the data set.
    pub indices: Vec<usize>,
    /// MACs of each image as a share of the dense model's.
    pub costs: Vec<f32>,
    /// Share of the images whose patch at each grid position is left after each stage, `[K][N0]`.
    pub keep_maps: Vec<Vec<f32>>,
}

/// Measures the dense model and `policy` on `dataset` in one pass, then the hand-made methods at the
/// policy's measured keep ratios in a second, over fewer images if so asked. The keep ratios need no label. The
/// details are the policy's, empty without one.
///
/// # Errors
/// If images cannot be read, there are none, or it was ended.
pub fn evaluate(
    loaded: &Loaded,
    dataset: &Dataset,
    policy: Option<&Policy>,
    options: &EvalOptions,
    progress: &mut Progress<'_>,
) -> Result<(Evaluation, Details)> {
    let wanted = |method: Method| options.methods.contains(&method);
    let policy_first = policy.map(|policy| Contender {
        method: Method::Policy,
        pruner: Box::new(LearnedPruner::new(&loaded.spec, policy)),
        metrics: Metrics::new(&loaded.spec),
    });
    let mut contenders: Vec<Contender> = policy_first.into_iter().collect();
    let dense = first_pass(loaded, dataset, &mut contenders, options, progress)?;
    if dense.images == 0 {
        let data = dataset.split().to_owned();
        return Err(MeasureError::Part { data, reason: "no image that can be decoded".into() });
    }

    let details = contenders.first().map_or_else(Details::default, |of_policy| Details {
        indices: dense.indices.clone(),
        costs: of_policy.metrics.costs(),
        keep_maps: of_policy.metrics.keep_maps(),
    });
    let profile = match (policy, contenders.first()) {
        (Some(policy), Some(of_policy)) => Some((policy.drop_stages(), of_policy.metrics.keep_ratio())),
        _ => options.profile.clone(),
    };
    if let Some((stages, keep)) = profile {
        let mut hand = Vec::new();
        for &method in options.methods.iter().filter(|m| **m != Method::Policy && m.can_act(&stages)) {
            let pruner = method.at_shares(&loaded.spec, &stages, &keep)?;
            hand.push(Contender { method, pruner, metrics: Metrics::new(&loaded.spec) });
        }
        second_pass(loaded, dataset, &mut hand, &dense, options, progress)?;
        contenders.extend(hand);
    }
    contenders.retain(|contender| wanted(contender.method));
    let evaluation = Evaluation {
        images: dense.images,
        labelled: dense.labelled,
        bad_images: dense.bad_images,
        dense_top1: (dense.labelled > 0).then(|| 100.0 * dense.right as f64 / dense.labelled as f64),
        dense_gmacs: cost::dense_macs(&loaded.spec) as f64 / 1e9,
        methods: contenders
            .into_iter()
            .map(|contender| contender.report(loaded, &dense, options))
            .collect::<Result<_>>()?,
    };
    Ok((evaluation, details))
}

/// The dense model and the policy (if it is among `contenders`).
fn first_pass(
    loaded: &Loaded,
    dataset: &Dataset,
    contenders: &mut [Contender],
    options: &EvalOptions,
    progress: &mut Progress<'_>,
) -> Result<Dense> {
    let model = &loaded.model;
    let (site, taps) = start(contenders, loaded);
    let room = if options.speed.is_some() { SPEED_IMAGES } else { 0 };
    let mut dense = Dense::default();
    let mut loader = loader(loaded, dataset, options)?;
    while let Some(batch) = loader.next().transpose()? {
        let keys = batch.keys();
        let mut state = model.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        model.advance(&mut state, site, taps)?;
        let mut unpruned = state.clone();
        model.advance(&mut unpruned, Site::end(&loaded.spec), Taps::NONE)?;
        let answer = model.finish(&unpruned, Want::answer(&loaded.spec))?;
        for contender in contenders.iter_mut() {
            let pruned = run_from(model, contender.pruner.as_ref(), state.clone(), &keys)?;
            contender.metrics.add(&answer, &pruned, &batch.labels);
        }
        dense.add(&batch, answer, &keys, room);
        progress.at(loader.position(), loader.total())?;
    }
    dense.bad_images = loader.bad_images().count();
    Ok(dense)
}

/// Where `contenders` part.
fn start(contenders: &[Contender], loaded: &Loaded) -> (Site, Taps) {
    let first = first_site(contenders.iter().map(|contender| contender.pruner.as_ref()), &loaded.spec);
    first.unwrap_or((Site::input_of(0), Taps::NONE))
}

/// The hand-made methods.
fn second_pass(
    loaded: &Loaded,
    dataset: &Dataset,
    contenders: &mut [Contender],
    dense: &Dense,
    options: &EvalOptions,
    progress: &mut Progress<'_>,
) -> Result<()> {
    if contenders.is_empty() {
        return Ok(());
    }
    let (site, taps) = start(contenders, loaded);
    let model = &loaded.model;
    let wanted = options.hand_made_images.unwrap_or(usize::MAX);
    let mut loader = loader(loaded, dataset, options)?;
    for answer in &dense.answers {
        if contenders[0].metrics.images() >= wanted {
            break;
        }
        let Some(batch) = loader.next().transpose()? else { break };
        let mut state = model.embed(PixelBatch::new(&batch.pixels, batch.len()))?;
        model.advance(&mut state, site, taps)?;
        let keys = batch.keys();
        for contender in contenders.iter_mut() {
            let pruned = run_from(model, contender.pruner.as_ref(), state.clone(), &keys)?;
            contender.metrics.add(answer, &pruned, &batch.labels);
        }
        progress.at(loader.position(), loader.total())?;
    }
    Ok(())
}

fn loader(loaded: &Loaded, dataset: &Dataset, options: &EvalOptions) -> Result<Loader> {
    let loader_options = LoaderOptions {
        batch: options.batch,
        workers: options.workers,
        skip: 0,
        limit: options.images,
        on_bad_image: options.on_bad_image,
        augment: None,
        corruption: options.corruption,
    };
    Ok(Loader::new(dataset, Order::Sequential, &loaded.transform, loader_options)?)
}

impl Dense {
    /// Adds a batch, and keeps its pixels as long as fewer than `room` images are kept.
    fn add(&mut self, batch: &Batch, answer: Output, keys: &[ImageKey], room: usize) {
        for (class, label) in answer.argmax().into_iter().zip(&batch.labels) {
            self.labelled += usize::from(label.is_some());
            self.right += usize::from(*label == u32::try_from(class).ok());
        }
        self.images += batch.len();
        self.indices.extend(&batch.indices);
        let kept = room.saturating_sub(self.keys.len()).min(batch.len());
        self.keys.extend(&keys[..kept]);
        self.pixels.extend_from_slice(&batch.pixels[..kept * (batch.pixels.len() / batch.len())]);
        self.answers.push(answer);
    }
}

impl Contender {
    fn report(self, loaded: &Loaded, dense: &Dense, options: &EvalOptions) -> Result<MethodReport> {
        let metrics = &self.metrics;
        let (loss, labelled) = (metrics.loss()?, metrics.labelled() > 0);
        let spread = metrics.spread().unwrap_or(CostSpread { p10: 1.0, p50: 1.0, p90: 1.0 });
        let speed = match options.speed {
            Some(seconds) => speeds(loaded, self.pruner.as_ref(), dense, seconds)?,
            None => Vec::new(),
        };
        Ok(MethodReport {
            method: self.method.to_string(),
            images: (metrics.images() < dense.images).then(|| metrics.images()),
            top1: metrics.top1(),
            drop_pp: labelled.then(|| loss.measured()),
            interval_pp: loss.interval(Confidence::new(0.95)?),
            disagreement: metrics.disagreement(),
            drift: matches!(loss, Loss::Drift(_)).then(|| loss.measured()),
            fidelity: metrics.mean_divergence(),
            keep_ratio: metrics.keep_ratio(),
            gmacs: metrics.gmacs(),
            cost: metrics.cost(),
            cost_spread: spread,
            speed,
        })
    }
}

fn speeds(loaded: &Loaded, pruner: &dyn Pruner, dense: &Dense, seconds: f64) -> Result<Vec<SpeedUp>> {
    let pixels = Pixels { data: &dense.pixels, keys: &dense.keys };
    SPEED_BATCHES
        .iter()
        .filter(|(batch, _)| *batch <= dense.keys.len())
        .map(|&(batch, images)| {
            let options = SpeedOptions {
                rounds: SPEED_ROUNDS,
                time: Duration::from_secs_f64(seconds),
                batches: images / batch,
            };
            speed_up(&loaded.model, pruner, pixels, batch, options)
        })
        .collect()
}
