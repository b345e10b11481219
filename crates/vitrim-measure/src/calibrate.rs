//! Calibration: the setting that keeps the loss within the user's limit, chosen on held-out images and written into the
//! policy: the threshold of a learned policy, the cost of a hand-made method.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vitrim_data::{Dataset, Order};
use vitrim_prune::{AnyPolicy, KeepProfile, Pruned, keep_shares};
use vitrim_vit::{Precision, VitSpec};

use crate::elsewhere::{Elsewhere, MeasuredBatch, PassTask, TaskPruners};
use crate::error::{MeasureError, Result};
use crate::front::{Choice, Front, FrontPoint, Measure, Verdict, choose};
use crate::metrics::PrunedFigures;
use crate::model::Loaded;
use crate::passes::{MeasuredPruner, Pass, PassBatch, PassOptions, each_batch, start};
use crate::progress::Progress;
use crate::statistics::Confidence;

/// Default accuracy loss allowed, pp.
pub const MAX_LOSS: f64 = 0.4;
/// Number of thresholds of [`coarse_grid`], their first logit and the distance of two: 97 to 45 % of the MACs on DeiT-Ti
/// with the bundled policy.
const COARSE: usize = 16;
const COARSE_FROM: f64 = -13.75;
const COARSE_STEP: f64 = 1.25;
/// Costs of hand-made methods are tried in steps of this share of the dense MACs.
const COST_STEP: f64 = 0.025;
/// Number of images after which a setting may be given up.
const LEAST_IMAGES: usize = 500;
/// Losses up to this value, pp, are measured even if a smaller one is asked for, so that the record can answer later
/// requests.
const LEAST_BEYOND: f64 = 3.0;
/// Number of thresholds on the grid.
const GRID: usize = 31;
/// The grid's last threshold, as a logit: 0.999999. Policies decide most agents with high certainty, so that mild
/// points lie at extreme thresholds.
const LAST_LOGIT: f64 = 13.82;
/// Thresholds are rounded to six digits, so that they can be typed.
const STEPS: f64 = 1e6;

/// The share of the requested loss at which a pilot aims; the rest is the margin of the bound.
const PILOT_SHARE: f64 = 0.85;

/// The calibration record in `policy.json`: what was calibrated, and on which images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The data set.
    pub data: String,
    /// The split of the data set.
    pub split: String,
    /// Data type of the backbone's arithmetic, dense and pruned: another precision decides slightly differently, and
    /// the record certifies nothing for it. Records without this field are in f32.
    #[serde(with = "crate::model::dtype", default)]
    pub dtype: Precision,
    /// The drop allowed, pp; for a backbone without classes the drift, percent.
    pub max_drop: f64,
    /// The confidence asked for.
    pub confidence: Confidence,
    /// Whether the images certify the limit.
    pub certified: bool,
    /// The chosen setting: a threshold or, of a hand-made method, a share of the dense MACs. If none is certified, the one at
    /// which every token stays: 0 or 1.
    pub threshold: f64,
    /// The choice in words.
    pub choice: String,
    /// The measured front.
    pub front: Front,
    /// The front of the [`pilot`] that chose the settings, if there was one: measured on few images, it certifies
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pilot: Option<Front>,
}

impl Calibration {
    /// The front with the widest range of costs: the pilot's, if there was one.
    pub fn widest(&self) -> &Front {
        self.pilot.as_ref().unwrap_or(&self.front)
    }
}

/// How to calibrate.
#[derive(Clone, Debug)]
pub struct CalibrationOptions<'a> {
    /// Settings to measure, from the mildest to the boldest, fixed before any of the images is seen: the thresholds of
    /// [`grid`], or the part of it that a [`pilot`] on other images chose; the costs of [`cost_grid`].
    pub settings: Vec<f64>,
    /// The pilot's front, for the record.
    pub pilot: Option<Front>,
    /// The loss allowed: the drop of top-1, pp; for a backbone without classes the drift, percent.
    pub max_loss: f64,
    /// The confidence of the bound.
    pub confidence: Confidence,
    /// Which images (of the shuffled data set), and how they are loaded.
    pub pass: PassOptions,
    /// Other processes that measure; `None` for this one.
    pub elsewhere: Option<Elsewhere<'a>>,
}

/// The result of a calibration.
#[derive(Clone, Debug)]
pub(crate) struct Calibrated {
    /// The choice.
    pub choice: Choice,
    /// Positions in the data set of the images that were used.
    pub indices: Vec<usize>,
}

/// Measures `policy` at the given settings on `dataset` (opened at `data`, called `split`) and writes the record
/// and the chosen setting into the policy.
///
/// # Errors
/// If images cannot be read, there are none, or the calibration was asked to stop.
pub(crate) fn calibrate(
    loaded: &Loaded,
    policy: &mut AnyPolicy,
    (data, split): (&str, &str),
    dataset: &Dataset,
    options: &CalibrationOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<Calibrated> {
    let (front, indices) = measure(loaded, policy, dataset, options, progress)?;
    let choice = choose(&front, options.max_loss, options.confidence);
    let record = Calibration {
        data: data.to_owned(),
        split: split.to_owned(),
        dtype: loaded.model.weights().precision(),
        max_drop: options.max_loss,
        confidence: options.confidence,
        certified: matches!(choice.verdict, Verdict::Certified(_)),
        threshold: setting(policy, &choice),
        choice: choice.to_string(),
        front,
        pilot: options.pilot.clone(),
    };
    policy.set(policy.at_setting(record.threshold))?;
    let value = serde_json::to_value(&record);
    policy.set_calibration(Some(value.map_err(|error| MeasureError::Setting(error.to_string()))?));
    Ok(Calibrated { choice, indices })
}

/// The calibration record of `policy`, read from `folder`.
///
/// # Errors
/// [`MeasureError::Policy`] if there is none, or it is damaged.
pub fn record(policy: &AnyPolicy, folder: &Path) -> Result<Calibration> {
    let bad = |reason: String| MeasureError::Policy { path: folder.join("policy.json"), reason };
    let value = policy.calibration().cloned().ok_or_else(|| {
        bad("not calibrated, so that no drop can be chosen; run `vitrim calibrate` on it first".into())
    })?;
    serde_json::from_value(value)
        .map_err(|error| bad(format!("damaged calibration record ({error}); calibrate the policy again")))
}

/// Sets `policy`, read from `folder`, to another drop or confidence (`None`: as calibrated), from its record and
/// without images.
///
/// # Errors
/// As [`record`].
pub fn choose_from_record(
    policy: &mut AnyPolicy,
    folder: &Path,
    max_loss: Option<f64>,
    confidence: Option<Confidence>,
) -> Result<Choice> {
    let record = record(policy, folder)?;
    let max_loss = max_loss.unwrap_or(record.max_drop);
    let choice = choose(&record.front, max_loss, confidence.unwrap_or(record.confidence));
    policy.set(policy.at_setting(setting(policy, &choice)))?;
    Ok(choice)
}

/// Sets `policy`, read from `folder`, to the mildest setting in its record whose measured cost is at most `gmacs`
/// (1e9 MACs per image, the policy's own scoring included), without images and whatever its drop.
///
/// # Errors
/// As [`record`], or [`MeasureError::Setting`] if every setting in the record costs more.
pub fn choose_cost_from_record(policy: &mut AnyPolicy, folder: &Path, gmacs: f64) -> Result<FrontPoint> {
    let front = record(policy, folder)?.front;
    let points = front.points();
    let Some(point) = points.iter().find(|point| point.gmacs <= gmacs) else {
        let cheapest = points[points.len() - 1].gmacs;
        return Err(MeasureError::Setting(format!(
            "{}: no {} on record costs {gmacs:.4} GMACs or less, the cheapest costs {cheapest:.4}; ask for at least that, \
             or {} for a larger drop",
            folder.display(),
            policy.setting_name(),
            if matches!(policy, AnyPolicy::Learned(_)) { "train" } else { "calibrate it" },
        )));
    };
    policy.set(policy.at_setting(point.setting))?;
    Ok(point.clone())
}

/// Cost of hand-made methods at keep ratio `keep` and the stages of `policy` (of a hand-made method, the backbone's default
/// ones), 1e9 MACs per image: the cost to which a keep ratio asked of a policy corresponds.
///
/// # Errors
/// [`MeasureError::Setting`] if `keep` does not lie between 0 and 1.
pub fn gmacs_at_keep(spec: &VitSpec, policy: &AnyPolicy, keep: f64) -> Result<f64> {
    let stages = match policy {
        AnyPolicy::Learned(policy) => policy.drop_stages(),
        AnyPolicy::Method(_) => spec.default_stages(),
    };
    let profile = KeepProfile::new(spec, &stages, &keep_shares(&[keep], stages.len())?)?;
    Ok(profile.macs(spec, 0) as f64 / 1e9)
}

/// Describes a point that [`choose_cost_from_record`] chose for a backbone of geometry `spec`, in one line.
///
/// # Errors
/// Never for a point of a record.
pub fn describe_point(spec: &VitSpec, point: &FrontPoint) -> Result<String> {
    let measure = if spec.num_classes == 0 { Measure::Drift } else { Measure::AccuracyLoss };
    Ok(format!(
        "setting {} costs {:.4} GMACs, {:.1} % of dense, {name} {:.2} {}; its {name} is measured on {} images, and nothing \
         is certified",
        point.setting,
        point.gmacs,
        100.0 * point.cost,
        point.loss()?.measured(),
        measure.unit(),
        point.images,
        name = measure.name(),
    ))
}

/// A message if `policy`, read from `folder`, was calibrated in another precision than it runs in.
pub fn uncertified_dtype(policy: &AnyPolicy, folder: &Path, precision: Precision) -> Option<String> {
    let calibrated = record(policy, folder).ok()?.dtype;
    (calibrated != precision).then(|| {
        format!(
            "calibrated in {calibrated}, so that no drop is certified in {precision}; `vitrim calibrate --dtype \
             {precision}` would certify one"
        )
    })
}

/// Whether the setting of `policy` was chosen on `split` of the data set at `data`: then only other images give an
/// unbiased drop.
pub fn calibrated_on(policy: &AnyPolicy, data: &str, split: &str) -> bool {
    let record = policy.calibration().cloned().and_then(|r| serde_json::from_value::<Calibration>(r).ok());
    record.is_some_and(|record| record.data == data && record.split == split)
}

/// Checks a limit of the loss, pp.
///
/// # Errors
/// [`MeasureError::Setting`] if it does not lie between 0 and 100.
pub fn check_max_loss(max_drop: f64) -> Result<f64> {
    if (0.0..=100.0).contains(&max_drop) {
        return Ok(max_drop);
    }
    Err(MeasureError::Setting(format!("max-drop {max_drop} must lie between 0 and 100 percentage points")))
}

/// The limit of the loss for a backbone of geometry `spec`: a drop of top-1, pp, if it has classes; a drift of its
/// features, percent, if it has none. `None` if no limit was given.
///
/// # Errors
/// [`MeasureError::Setting`] if the limit of the other kind was given, or the limit does not lie between 0 and 100.
pub fn allowed(spec: &VitSpec, max_drop: Option<f64>, max_drift: Option<f64>) -> Result<Option<f64>> {
    match (spec.num_classes, max_drop, max_drift) {
        (0, Some(_), _) => Err(MeasureError::Setting(
            "max-drop: the backbone has no classes whose top-1 could drop; give max-drift, percent".into(),
        )),
        (1.., _, Some(_)) => Err(MeasureError::Setting(
            "max-drift: the backbone has classes, and is held to their top-1; give max-drop, percentage points".into(),
        )),
        (_, None, Some(drift)) if !(0.0..=100.0).contains(&drift) => {
            Err(MeasureError::Setting(format!("max-drift {drift} must lie between 0 and 100 percent")))
        }
        _ => max_drop.map(check_max_loss).transpose().map(|drop| drop.or(max_drift)),
    }
}

/// The setting of `policy` that a choice leads to; if nothing is certified, the one at which every token stays.
fn setting(policy: &AnyPolicy, choice: &Choice) -> f64 {
    match choice.verdict {
        Verdict::Certified(chosen) => chosen.setting,
        Verdict::NotCertified { .. } => policy.keeping_all(),
    }
}

/// Thresholds from 0.000001 to 0.999999, spaced by logits and denser around 0.5, for policies of high and of low
/// certainty. Fixed beforehand, so that the order of the tests does not depend on measured drops.
pub fn grid() -> Vec<f64> {
    let half = (GRID / 2) as f64;
    let threshold = |i: usize| {
        let u = (i as f64 - half) / half;
        let logit = LAST_LOGIT * (0.22 * u + 0.78 * u.powi(5));
        rounded(probability(logit))
    };
    (0..GRID).map(threshold).collect()
}

/// Thresholds for a policy for every backbone, evenly spaced by logits: half as many as in [`grid`], for a calibration in a
/// minute or a few. Fixed beforehand, too.
pub fn coarse_grid() -> Vec<f64> {
    (0..COARSE).map(|i| rounded(probability(COARSE_FROM + COARSE_STEP * i as f64))).collect()
}

/// Costs of a hand-made method, as shares of the dense MACs, down to the first that is not above `least`, the method's least
/// cost. Fixed beforehand, too: the fit, from which `least` comes, sees other images than the calibration.
pub fn cost_grid(least: f64) -> Vec<f64> {
    let steps = (1.0 / COST_STEP).round() as usize;
    let costs = (1..steps).map(|step| rounded(1.0 - step as f64 * COST_STEP));
    let above = costs.clone().take_while(|cost| *cost > least).count();
    costs.take(above + 1).collect()
}

/// A few thresholds around the one that `options.max_loss` will lead to, chosen by a pilot over `options.thresholds`
/// on `dataset`, and the front that the pilot measured. The pilot's images must not be those of the calibration. With
/// few thresholds, many images can be used for calibration in little time.
///
/// `beyond`, descending, gives the positions of the thresholds: shares of the dense MACs above the cost that the
/// pilot chooses. The first should be mild: the pilot may be wrong, and a threshold is tested only if all before it
/// passed.
///
/// # Errors
/// If images cannot be read, there are none, or it was asked to stop.
pub fn pilot(
    loaded: &Loaded,
    policy: &AnyPolicy,
    dataset: &Dataset,
    beyond: &[f64],
    options: &CalibrationOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<(Vec<f64>, Front)> {
    let (front, _) = measure(loaded, policy, dataset, options, progress)?;
    // Few images say little about a drop, but the drop is proportional to D, which they do measure.
    let (mut losses, mut divergences) = (0.0, 0.0);
    for point in front.points() {
        losses += point.loss()?.measured();
        divergences += point.fidelity;
    }
    let divergence = PILOT_SHARE * options.max_loss * divergences / losses.max(f64::MIN_POSITIVE);
    let cost = between(&front, divergence, |point| point.fidelity, |point| point.cost);
    let threshold = |beyond: &f64| {
        rounded(probability(between(
            &front,
            -(cost + beyond),
            |point| -point.cost,
            |point| logit(point.setting),
        )))
    };
    let mut thresholds: Vec<f64> = beyond.iter().map(threshold).collect();
    thresholds.dedup();
    Ok((thresholds, front))
}

fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn logit(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln()
}

fn rounded(threshold: f64) -> f64 {
    (STEPS * threshold).round() / STEPS
}

/// The value of `y` where `x`, which rises along the points of `front`, equals `at`: linear interpolation between the
/// points, clamped to the value of `y` at the ends.
fn between(front: &Front, at: f64, x: fn(&FrontPoint) -> f64, y: fn(&FrontPoint) -> f64) -> f64 {
    let points = front.points();
    for pair in points.windows(2) {
        let (low, high) = (x(&pair[0]), x(&pair[1]));
        if (low..high).contains(&at) {
            return y(&pair[0]) + (at - low) / (high - low) * (y(&pair[1]) - y(&pair[0]));
        }
    }
    y(if at < x(&points[0]) { &points[0] } else { &points[points.len() - 1] })
}

/// The settings of a policy while they are measured.
pub(crate) struct SettingsUnderTest {
    /// Each setting and its pruner, from the mildest to the boldest.
    pub each: Vec<(f64, MeasuredPruner)>,
    /// Whether an image that keeps all of its tokens at one setting keeps them at every milder one.
    is_nested: bool,
}

/// The front of `policy` over the settings, and the positions of the images that it was measured on. All settings share the
/// blocks before the first stage.
///
/// A setting whose loss clearly exceeds every limit of interest is given up half-way, and so are all bolder ones: that
/// only shortens the sequence of tests, so that the guarantee holds.
fn measure(
    loaded: &Loaded,
    policy: &AnyPolicy,
    dataset: &Dataset,
    options: &CalibrationOptions<'_>,
    progress: &mut Progress<'_>,
) -> Result<(Front, Vec<usize>)> {
    let spec = &loaded.spec;
    let mut settings = SettingsUnderTest::new(spec, policy, &options.settings)?;
    // Shuffled, so that a limited number is a fair sample of a data set that is sorted by class.
    let order = Order::Shuffled { seed: 0, epoch: 0 };
    let mut indices = Vec::new();
    let mut add = |settings: &mut SettingsUnderTest, batch: &MeasuredBatch| {
        indices.extend(&batch.indices);
        for ((_, measured), pruned) in settings.each.iter_mut().zip(&batch.pruned) {
            measured.metrics.add(&batch.dense, pruned, &batch.labels);
        }
        settings.give_up((3.0 * options.max_loss).max(LEAST_BEYOND))
    };
    if let Some(elsewhere) = &options.elsewhere {
        let pruners =
            TaskPruners::Settings { settings: options.settings.clone(), offsets: policy.offsets().to_vec() };
        let task = PassTask { order, batch: options.pass.batch, pruners };
        let images = dataset.len().min(options.pass.images.unwrap_or(usize::MAX));
        for batch in elsewhere.batches(dataset, &task, images)? {
            add(&mut settings, &batch)?;
        }
        progress.at(images, images)?;
    } else {
        let start = start(settings.each.iter().map(|(_, measured)| measured.pruner.as_ref()), spec);
        let pass = Pass { loaded, dataset, order, options: &options.pass, start, dense: None };
        each_batch(pass, progress, &mut |batch| {
            let pruned = settings.figures(spec, batch)?;
            // Its place in the order is of no interest here.
            add(&mut settings, &MeasuredBatch::of(0, batch, pruned))
        })?;
    }
    let metrics = &settings.each[0].1.metrics;
    let (images, labelled) = (metrics.images(), metrics.labelled());
    if images == 0 {
        let data = dataset.split().to_owned();
        return Err(MeasureError::Part {
            data,
            reason: "no image to calibrate on that can be decoded".into(),
        });
    }
    let points = settings.each.iter().map(|(setting, measured)| measured.metrics.front_point(*setting));
    let points = points.collect::<Result<_>>()?;
    let front = Front::new(labelled > 0, if labelled > 0 { labelled } else { images }, points)?;
    Ok((front, indices))
}

impl SettingsUnderTest {
    /// `policy` at each of `settings`, unmeasured.
    ///
    /// # Errors
    /// As [`AnyPolicy::pruner_at`].
    pub fn new(spec: &VitSpec, policy: &AnyPolicy, settings: &[f64]) -> Result<Self> {
        let at = |&setting: &f64| {
            let pruner = policy.pruner_at(spec, &policy.at_setting(setting))?;
            Ok((setting, MeasuredPruner::new(pruner, spec)))
        };
        let each = settings.iter().map(at).collect::<Result<_>>()?;
        Ok(SettingsUnderTest { each, is_nested: policy.is_nested() })
    }

    /// The figures of `batch` at each setting.
    ///
    /// # Errors
    /// Errors of the backbone or the policy.
    pub fn figures(&self, spec: &VitSpec, batch: &PassBatch<'_>) -> Result<Vec<PrunedFigures>> {
        // If every token stays at a setting of nested ones, the same holds for all milder ones, and they need no run.
        let mut kept_all: Option<PrunedFigures> = None;
        let mut figures = Vec::with_capacity(self.each.len());
        for (_, measured) in self.each.iter().rev() {
            if let Some(same) = &kept_all {
                figures.push(PrunedFigures::clone(same));
                continue;
            }
            let pruned = batch.pruned(measured.pruner.as_ref())?;
            let these = PrunedFigures::of(spec, batch.dense, &pruned);
            let stays_whole = self.is_nested && keeps_all(&pruned, spec.num_prefix_tokens());
            kept_all = stays_whole.then(|| these.clone());
            figures.push(these);
        }
        figures.reverse();
        Ok(figures)
    }

    /// Gives up the first setting whose loss is certainly above `beyond`, and all bolder ones.
    fn give_up(&mut self, beyond: f64) -> Result<()> {
        if self.each[0].1.metrics.images() < LEAST_IMAGES {
            return Ok(());
        }
        for (i, (_, measured)) in self.each.iter().enumerate().skip(1) {
            let (low, _) = measured.metrics.loss()?.interval(Confidence::new(0.95)?);
            if low > beyond {
                self.each.truncate(i);
                break;
            }
        }
        Ok(())
    }
}

/// Whether each of the images kept all of its tokens, of which `prefix` are prefix tokens.
fn keeps_all(pruned: &Pruned, prefix: usize) -> bool {
    let all: usize = pruned.grids.iter().map(|[rows, columns]| rows * columns + prefix).sum();
    pruned.stages.last().is_none_or(|stage| stage.origins.len() == all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pilots_thresholds_lie_between_those_of_the_grid() {
        let point = |setting: f64, cost: f64| FrontPoint {
            setting,
            cost,
            gmacs: cost,
            keep_ratio: vec![cost],
            drift: None,
            fidelity: 0.0,
            images: 10,
            dense_only_right: 0,
            pruned_only_right: 0,
        };
        let points = vec![point(0.2, 0.9), point(0.4, 0.8), point(0.5, 0.6)];
        let front = Front::new(true, 10, points).unwrap();
        let threshold = |cost: f64| between(&front, -cost, |point| -point.cost, |point| point.setting);
        assert!((threshold(0.85) - 0.3).abs() < 1e-9);
        assert!((threshold(0.65) - 0.475).abs() < 1e-9);
        assert_eq!((threshold(1.2), threshold(0.3)), (0.2, 0.5), "the ends bound it");
    }

    #[test]
    fn the_coarse_grid_ascends_over_the_whole_range() {
        let grid = coarse_grid();
        assert_eq!((grid.len(), grid[11]), (COARSE, 0.5));
        assert!(grid[0] <= 1e-6 && grid[COARSE - 1] > 0.99, "{grid:?}");
        assert!(grid.windows(2).all(|w| w[0] < w[1]), "{grid:?}");
    }

    #[test]
    fn costs_fall_to_the_least_one() {
        let grid = cost_grid(0.31);
        assert_eq!((grid[0], grid[1], grid[grid.len() - 1]), (0.975, 0.95, 0.3));
        assert!(grid.windows(2).all(|w| w[0] > w[1]), "{grid:?}");
        assert_eq!(cost_grid(0.0).len(), 39);
        assert_eq!(cost_grid(0.99), [0.975], "there is always one to measure");
    }

    #[test]
    fn the_grid_ascends_and_is_denser_in_the_middle() {
        let grid = grid();
        assert_eq!((grid[0], grid[GRID / 2], grid[GRID - 1]), (0.000_001, 0.5, 0.999_999));
        assert!(grid.windows(2).all(|w| w[0] < w[1]), "{grid:?}");
        let step = |i: usize| logit(grid[i]) - logit(grid[i - 1]);
        assert!(step(GRID / 2) < 0.4 * step(GRID - 1));
    }
}
