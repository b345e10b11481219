//! The cost and the loss of pruning on given images: of the policy, and of the hand-made methods at its cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vitrim_data::{Dataset, Order};
use vitrim_prune::{AnyPolicy, ImageKey, Method, Pruner, Tell};
use vitrim_vit::Output;

use crate::elsewhere::{Elsewhere, MeasuredBatch, PassTask, TaskPruners};
use crate::error::{MeasureError, Result};
use crate::fits::Fits;
use crate::front::Measure;
use crate::fronts::profile_at;
use crate::metrics::CostSpread;
use crate::model::Loaded;
use crate::passes::{MeasuredPruner, Pass, PassBatch, PassOptions, each_batch, start};
use crate::progress::Progress;
use crate::speed::{Pixels, SpeedOptions, SpeedUp, speed_up};
use crate::statistics::{Confidence, Loss};

/// Batch sizes of the speed measurement, and the largest number of images in a round of each.
const SPEED_BATCHES: [(usize, usize); 2] = [(1, 64), (32, SPEED_IMAGES)];
/// Images that are kept in memory for the speed measurement.
const SPEED_IMAGES: usize = 256;
/// Smallest number of rounds of dense and pruned.
const SPEED_ROUNDS: usize = 5;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvalOptions<'a> {
    /// Which images, and how they are loaded.
    pub pass: PassOptions,
    /// Methods to compare.
    pub methods: Vec<Method>,
    /// The hand-made methods run only on the first so many images, in whole batches; `None` for all of them.
    pub hand_made_images: Option<usize>,
    /// Stages and shares of N0 for the hand-made methods, if there is no policy to match.
    pub profile: Option<(Vec<usize>, Vec<f64>)>,
    /// Seconds to measure each method's images/s for at each batch size; `None` to skip the measurement.
    pub speed: Option<f64>,
    /// Images that methods are fitted to; without them, methods that need images are refused.
    pub fit_images: Option<Dataset>,
    /// Other processes that measure; `None` for this one. They measure no speeds and fit no methods.
    pub elsewhere: Option<Elsewhere<'a>>,
}

impl EvalOptions<'_> {
    /// The fits of the methods.
    ///
    /// # Errors
    /// As [`Fits::of`].
    pub fn fits(&self, loaded: &Loaded, tell: Tell<'_>) -> Result<Fits> {
        Fits::of(&self.methods, loaded, self.fit_images.as_ref(), self.pass.on_bad_image, tell)
    }
}

/// The measured figures.
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
    /// MACs of the dense model per image, in units of 1e9.
    pub dense_gmacs: f64,
    /// One entry for each method, in the order asked for.
    pub methods: Vec<MethodReport>,
}

/// One method's figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodReport {
    /// Name of the method.
    pub method: String,
    /// Number of images (the first of the evaluation) that the method ran on; null for all of them.
    #[serde(default)]
    pub images: Option<usize>,
    /// Top-1, percent; null without labels.
    pub top1: Option<f64>,
    /// Dense minus pruned top-1, pp; null without labels.
    pub drop_pp: Option<f64>,
    /// Paired 95 % interval of the drop, pp; without labels of the disagreement, and without classes of the drift.
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
    /// Mean MACs per image, in units of 1e9, the method's own scoring included.
    pub gmacs: f64,
    /// Mean MACs as a share of the dense model's.
    pub cost: f64,
    /// How the cost differs between images.
    pub cost_spread: CostSpread,
    /// Images/s and speed-up against the dense model; empty if not measured.
    pub speed: Vec<SpeedUp>,
}

impl Evaluation {
    /// The measure of the methods' losses.
    pub fn measure(&self) -> Measure {
        match self.methods.iter().any(|method| method.drift.is_some()) {
            true => Measure::Drift,
            false if self.labelled > 0 => Measure::AccuracyLoss,
            false => Measure::Disagreement,
        }
    }
}

impl MethodReport {
    /// Name of the method for tables, with the number of its images if it did not run on all.
    pub fn label(&self) -> String {
        match self.images {
            None => self.method.clone(),
            Some(images) => format!("{} (first {images})", self.method),
        }
    }

    /// The loss: the drop, otherwise the drift, otherwise the disagreement.
    pub fn loss(&self) -> f64 {
        self.drop_pp.or(self.drift).or(self.disagreement).unwrap_or_default()
    }
}

/// A method while it is measured.
type MethodUnderTest = (Method, MeasuredPruner);

/// The dense model's answers, and pixels for the speed measurement.
#[derive(Default)]
struct Dense {
    /// Logits or features of each batch.
    answers: Vec<Output>,
    right: usize,
    labelled: usize,
    images: usize,
    /// Position of each image in the data set.
    indices: Vec<usize>,
    bad_images: usize,
    /// MACs of all images.
    macs: u64,
    pixels: Vec<f32>,
    /// Height and width of the images whose pixels are kept.
    sizes: Vec<[usize; 2]>,
    keys: Vec<ImageKey>,
}

/// Figures of the policy for single images and patches.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Position of each image in the data set.
    pub indices: Vec<usize>,
    /// MACs of each image as a share of the dense model's.
    pub costs: Vec<f32>,
    /// Share of the images whose patch at each grid position is left after each stage, `[K][N0]`.
    pub keep_maps: Vec<Vec<f32>>,
}

/// Measures the dense model and `policy` on `dataset` in one pass, then the hand-made methods at the policy's
/// measured keep ratios in a second pass, over fewer images if so requested. The keep ratios need no labels. The
/// details are those of the policy, empty without one.
///
/// # Errors
/// If images cannot be read, there are none, or the evaluation was asked to stop.
pub fn evaluate(
    loaded: &Loaded,
    dataset: &Dataset,
    policy: Option<&AnyPolicy>,
    options: &EvalOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<(Evaluation, Details)> {
    let of_policy = policy.map(|policy| policy.pruner(&loaded.spec)).transpose()?;
    let mut under_test: Vec<MethodUnderTest> = of_policy
        .map(|pruner| (Method::Policy, MeasuredPruner::new(pruner, &loaded.spec)))
        .into_iter()
        .collect();
    let dense = first_pass(loaded, dataset, &mut under_test, options, progress)?;
    if dense.images == 0 {
        let data = dataset.split().to_owned();
        return Err(MeasureError::Part { data, reason: "no image that can be decoded".into() });
    }

    let details = under_test.first().map_or_else(Details::default, |(_, measured)| Details {
        indices: dense.indices.clone(),
        costs: measured.metrics.costs(),
        keep_maps: measured.metrics.keep_maps(),
    });
    let profile = match (policy, under_test.first()) {
        (Some(policy), Some((_, measured))) => {
            Some(profile_at(&policy.drop_stages(&loaded.spec)?, &measured.metrics.keep_ratio()))
        }
        _ => options.profile.clone(),
    };
    if let Some(profile) = profile {
        let (stages, keep) = &profile;
        let (mut hand, fits) = (Vec::new(), options.fits(loaded, &mut progress.quiet())?);
        for &method in options.methods.iter().filter(|m| **m != Method::Policy && m.can_act(stages)) {
            let pruner = fits.at_shares(method, loaded, stages, keep)?;
            hand.push((method, MeasuredPruner::new(pruner, &loaded.spec)));
        }
        second_pass(loaded, dataset, &mut hand, &profile, &dense, options, progress)?;
        under_test.extend(hand);
    }
    under_test.retain(|(method, _)| options.methods.contains(method));
    let evaluation = Evaluation {
        images: dense.images,
        labelled: dense.labelled,
        bad_images: dense.bad_images,
        dense_top1: (dense.labelled > 0).then(|| 100.0 * dense.right as f64 / dense.labelled as f64),
        dense_gmacs: dense.gmacs(),
        methods: under_test
            .into_iter()
            .map(|under_test| report(under_test, loaded, &dense, options))
            .collect::<Result<_>>()?,
    };
    Ok((evaluation, details))
}

/// The dense model and the policy (if it is among `under_test`).
fn first_pass(
    loaded: &Loaded,
    dataset: &Dataset,
    under_test: &mut [MethodUnderTest],
    options: &EvalOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<Dense> {
    let room = if options.speed.is_some() { SPEED_IMAGES } else { 0 };
    let mut dense = Dense::default();
    if options.elsewhere.is_some() {
        let batches = measured_elsewhere(dataset, TaskPruners::Policy, options, progress)?;
        for batch in &batches {
            add_measured(under_test, batch);
            dense.count(&batch.dense, &batch.labels, &batch.indices, &batch.dense_macs);
        }
        return Ok(dense);
    }
    let pass = pass(loaded, dataset, under_test, options, None);
    dense.bad_images = each_batch(pass, progress, &mut |batch| {
        under_test.iter_mut().try_for_each(|(_, measured)| measured.add(batch))?;
        dense.add(batch, room);
        Ok(())
    })?;
    Ok(dense)
}

/// The hand-made methods, on the number of images requested for them, in whole batches.
fn second_pass(
    loaded: &Loaded,
    dataset: &Dataset,
    under_test: &mut [MethodUnderTest],
    profile: &(Vec<usize>, Vec<f64>),
    dense: &Dense,
    options: &EvalOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    if under_test.is_empty() {
        return Ok(());
    }
    if options.elsewhere.is_some() {
        let (stages, keep) = profile.clone();
        let methods = under_test.iter().map(|(method, _)| method.name().to_owned()).collect();
        let pruners = TaskPruners::HandMade { methods, stages, keep };
        for batch in measured_elsewhere(dataset, pruners, options, progress)? {
            add_measured(under_test, &batch);
        }
        return Ok(());
    }
    let mut before = 0;
    let wanted = options.hand_made_images.unwrap_or(usize::MAX);
    let batches = dense.answers.iter().take_while(|answer| {
        let more = before < wanted;
        before += answer.values.len() / answer.width;
        more
    });
    let known = &dense.answers[..batches.count()];
    let pass = pass(loaded, dataset, under_test, options, Some(known));
    each_batch(pass, progress, &mut |batch| {
        under_test.iter_mut().try_for_each(|(_, measured)| measured.add(batch))
    })?;
    Ok(())
}

/// The figures of `pruners` on all images, measured by other processes.
fn measured_elsewhere(
    dataset: &Dataset,
    pruners: TaskPruners,
    options: &EvalOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<Vec<MeasuredBatch>> {
    let elsewhere = options.elsewhere.as_ref().expect("the caller has asked");
    let images = dataset.len().min(options.pass.images.unwrap_or(usize::MAX));
    let task = PassTask { order: Order::Sequential, batch: options.pass.batch, pruners };
    let batches = elsewhere.batches(dataset, &task, images)?;
    progress.at(images, images)?;
    Ok(batches)
}

/// Adds a batch that another process has measured.
fn add_measured(under_test: &mut [MethodUnderTest], batch: &MeasuredBatch) {
    for ((_, measured), pruned) in under_test.iter_mut().zip(&batch.pruned) {
        measured.metrics.add(&batch.dense, pruned, &batch.labels);
    }
}

fn pass<'a>(
    loaded: &'a Loaded,
    dataset: &'a Dataset,
    under_test: &[MethodUnderTest],
    options: &'a EvalOptions<'_>,
    dense: Option<&'a [Output]>,
) -> Pass<'a> {
    let start = start(under_test.iter().map(|(_, measured)| measured.pruner.as_ref()), &loaded.spec);
    Pass { loaded, dataset, order: Order::Sequential, options: &options.pass, start, dense }
}

impl Dense {
    /// Counts a batch: the dense model's classes, the labels, the positions and the MACs of its images, `[B]` each.
    fn count(&mut self, classes: &[usize], labels: &[Option<u32>], indices: &[usize], macs: &[u64]) {
        for (&class, label) in classes.iter().zip(labels) {
            self.labelled += usize::from(label.is_some());
            self.right += usize::from(*label == u32::try_from(class).ok());
        }
        self.images += indices.len();
        self.indices.extend(indices);
        self.macs += macs.iter().sum::<u64>();
    }

    /// Mean MACs of an image, in units of 1e9.
    fn gmacs(&self) -> f64 {
        self.macs as f64 / self.images as f64 / 1e9
    }

    /// Adds a batch, and keeps its pixels as long as fewer than `room` images are kept.
    fn add(&mut self, batch: &PassBatch<'_>, room: usize) {
        let images = batch.images;
        self.count(&batch.dense.argmax(), &images.labels, &images.indices, &batch.dense_macs());
        let kept = room.saturating_sub(self.keys.len()).min(images.len());
        self.keys.extend(&batch.keys[..kept]);
        let sizes = &images.sizes[..kept];
        let values = sizes.iter().map(|[height, width]| 3 * height * width).sum();
        self.pixels.extend_from_slice(&images.pixels[..values]);
        self.sizes.extend(sizes);
        self.answers.push(batch.dense.clone());
    }
}

/// The figures of a method.
fn report(
    (method, measured): MethodUnderTest,
    loaded: &Loaded,
    dense: &Dense,
    options: &EvalOptions<'_>,
) -> Result<MethodReport> {
    let metrics = &measured.metrics;
    let (loss, labelled) = (metrics.loss()?, metrics.labelled() > 0);
    let spread = metrics.spread().unwrap_or(CostSpread { p10: 1.0, p50: 1.0, p90: 1.0 });
    let speed = match options.speed {
        Some(seconds) => speeds(loaded, measured.pruner.as_ref(), dense, seconds)?,
        None => Vec::new(),
    };
    Ok(MethodReport {
        method: method.to_string(),
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

fn speeds(loaded: &Loaded, pruner: &dyn Pruner, dense: &Dense, seconds: f64) -> Result<Vec<SpeedUp>> {
    let pixels = Pixels { data: &dense.pixels, sizes: &dense.sizes, keys: &dense.keys };
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
