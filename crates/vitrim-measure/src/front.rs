//! The measured front (loss against cost, one point per setting) and the choice on it.
//!
//! A setting is a point's threshold. The choice is the cheapest setting that is certified to stay within the drop (or
//! the drift) that the user allows, or the reason why there is none.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::statistics::{Confidence, Drift, Loss, PairedLoss, StatsError};

/// A front that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// No setting was measured.
    #[error("the front holds no points; measure at least one setting")]
    Empty,
    /// The points were measured on different images.
    #[error(
        "setting {setting} was measured on {images} images and the front on {expected}; measure every setting on the same images"
    )]
    Images {
        /// The setting of the point.
        setting: f64,
        /// The point's images.
        images: usize,
        /// The front's images.
        expected: usize,
    },
    /// A point has a cost or a setting that is not a number.
    #[error("setting {setting} has cost {cost}; both must be finite numbers, measure it again")]
    NotANumber {
        /// The setting of the point.
        setting: f64,
        /// Its share of the dense MACs.
        cost: f64,
    },
    /// Some points have a drift of features, others a drop of classes.
    #[error(
        "setting {setting} was measured on another kind of backbone than the front's first; measure it again"
    )]
    Mixed {
        /// The setting of the point.
        setting: f64,
    },
    /// A point's counts contradict each other.
    #[error("setting {setting}: {cause}")]
    Counts {
        /// The setting of the point.
        setting: f64,
        /// What is wrong with them.
        cause: StatsError,
    },
}

/// The measure of a front's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Top-1, judged by labels.
    AccuracyLoss,
    /// Agreement with the dense model's classes, which bounds the drop of images without labels.
    Disagreement,
    /// The direction of the pooled features, of backbones without classes.
    Drift,
}

impl Measure {
    /// Its name in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Measure::AccuracyLoss => "drop",
            Measure::Disagreement => "disagreement with the dense model",
            Measure::Drift => "drift",
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        if self == Measure::Drift { "%" } else { "pp" }
    }

    /// Its name as the header of a table's column.
    pub fn header(self) -> &'static str {
        match self {
            Measure::AccuracyLoss => "drop pp",
            Measure::Disagreement => "differs %",
            Measure::Drift => "drift %",
        }
    }
}

/// One setting, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontPoint {
    /// The threshold of the read-out.
    pub setting: f64,
    /// MACs as a share of the dense model's, the pruner's own scoring included.
    pub cost: f64,
    /// MACs per image, in units of 1e9.
    pub gmacs: f64,
    /// Number of images of the measurement.
    pub images: usize,
    /// Images that only the dense model got right. Without labels: images on which the two models disagree; this
    /// counts every disagreement as a loss, and so bounds the drop from above.
    pub dense_only_right: usize,
    /// Images that only the pruned model got right. Without labels: 0.
    pub pruned_only_right: usize,
    /// Drift of the features of a backbone without classes; both counts are 0 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Mean D = 9 KL(softmax(z / 3) || softmax(z' / 3)), z the dense logits and z' the pruned ones; 1 - cos of the
    /// features of a backbone without classes.
    pub fidelity: f64,
    /// Mean share of the patch tokens that is left after each stage, `[K]`.
    pub keep_ratio: Vec<f64>,
}

impl FrontPoint {
    /// The loss, with its bounds.
    ///
    /// # Errors
    /// [`StatsError`] for counts that contradict each other; never for a point of a [`Front`].
    pub fn loss(&self) -> Result<Loss, StatsError> {
        match self.drift {
            Some(drift) => Ok(Loss::Drift(drift)),
            None => PairedLoss::new(self.images, self.dense_only_right, self.pruned_only_right)
                .map(Loss::Accuracy),
        }
    }
}

/// Settings measured on the same images, from the costliest to the cheapest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedFront")]
pub struct Front {
    labelled: bool,
    images: usize,
    points: Vec<FrontPoint>,
}

/// A front as read from a file, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedFront {
    labelled: bool,
    images: usize,
    points: Vec<FrontPoint>,
}

impl TryFrom<UncheckedFront> for Front {
    type Error = FrontError;

    fn try_from(front: UncheckedFront) -> Result<Front, FrontError> {
        Front::new(front.labelled, front.images, front.points)
    }
}

impl Front {
    /// Sorts `points` from the costliest to the cheapest (at equal cost by setting) and checks them.
    /// `labelled` says whether right and wrong were judged by labels or by the dense model.
    ///
    /// # Errors
    /// [`FrontError`] without points, or when a point contradicts itself or the others.
    pub fn new(labelled: bool, images: usize, mut points: Vec<FrontPoint>) -> Result<Front, FrontError> {
        if points.is_empty() {
            return Err(FrontError::Empty);
        }
        for point in &points {
            let setting = point.setting;
            if !setting.is_finite() || !point.cost.is_finite() {
                let cost = point.cost;
                return Err(FrontError::NotANumber { setting, cost });
            }
            if point.images != images {
                return Err(FrontError::Images { setting, images: point.images, expected: images });
            }
            if point.drift.is_some() != points[0].drift.is_some() {
                return Err(FrontError::Mixed { setting });
            }
            point.loss().map_err(|cause| FrontError::Counts { setting, cause })?;
        }
        points.sort_by(|a, b| {
            let by_cost = b.cost.total_cmp(&a.cost);
            by_cost.then(a.setting.total_cmp(&b.setting))
        });
        Ok(Front { labelled, images, points })
    }

    /// Whether answers were judged by labels; otherwise by the dense model's predictions.
    pub fn labelled(&self) -> bool {
        self.labelled
    }

    /// The measure of the losses.
    pub fn measure(&self) -> Measure {
        match (self.points[0].drift, self.labelled) {
            (Some(_), _) => Measure::Drift,
            (None, true) => Measure::AccuracyLoss,
            (None, false) => Measure::Disagreement,
        }
    }

    /// Number of images on which every point was measured.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The points, from the costliest to the cheapest. Never empty.
    pub fn points(&self) -> &[FrontPoint] {
        &self.points
    }

    /// The smallest limit of the loss for which [`choose`] reaches the point of `setting` at `confidence`: the bound that
    /// is certified there. `None` if there is no such point.
    pub fn certified(&self, setting: f64, confidence: Confidence) -> Option<f64> {
        let at = self.points.iter().position(|point| point.setting == setting)?;
        let bounds = self.losses().into_iter().take(at + 1).map(|loss| loss.upper_bound(confidence));
        Some(bounds.fold(0.0, f64::max))
    }

    /// Each point's loss, in the order of the points.
    fn losses(&self) -> Vec<Loss> {
        let loss = |point: &FrontPoint| point.loss().expect("Front::new checked the counts");
        self.points.iter().map(loss).collect()
    }
}

/// A point of a front, as part of a [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// Its index among the front's points.
    pub index: usize,
    /// Its threshold.
    pub setting: f64,
    /// Its share of the dense MACs.
    pub cost: f64,
    /// Its measured loss, in the unit of the [`Measure`].
    pub loss: f64,
    /// The upper bound of its loss at the requested confidence.
    pub bound: f64,
}

/// Whether a limit could be certified.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The loss of this setting is within the limit, at the requested confidence.
    Certified(Chosen),
    /// These images cannot certify the limit, not even for the setting that prunes least.
    NotCertified {
        /// The setting that prunes least; its bound exceeds the limit.
        mildest: Chosen,
        /// The choice by the measured values alone (confidence 0.5), if there is one.
        best: Option<Chosen>,
        /// Number of images that would certify the setting that prunes least, if the shares of discordant images
        /// stayed the same. None: no number of images would.
        images_needed: Option<usize>,
    },
}

/// The cheapest setting within a limit, together with the request. Prints as one line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The limit of the loss.
    pub allowed: f64,
    /// The requested confidence.
    pub confidence: Confidence,
    /// Number of images behind the choice.
    pub images: usize,
    /// The measure of the loss.
    pub measure: Measure,
    /// The choice.
    pub verdict: Verdict,
}

/// The cheapest setting of `front` that is certified to lose at most `allowed`.
///
/// Fixed-sequence testing (Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test", 2021, arXiv 2110.01052,
/// section 2.3): go from the costliest point to the cheapest, and stop at the first whose one-sided upper bound
/// exceeds the limit; the point before it is chosen. A wrong setting can be chosen only if the first wrong one in the
/// sequence passes its single test. The probability of that is at most 1 - confidence, however many settings were
/// measured: no correction for their number is needed. This requires that the order does not depend on the measured
/// drops; cost grows with the tokens kept, so that the order of thresholds is known beforehand.
pub fn choose(front: &Front, allowed: f64, confidence: Confidence) -> Choice {
    let losses = front.losses();
    let last_accepted = |confidence: Confidence| {
        let accepted = losses.iter().take_while(|loss| loss.upper_bound(confidence) <= allowed);
        accepted.count().checked_sub(1)
    };
    let chosen = |index: usize| Chosen {
        index,
        setting: front.points[index].setting,
        cost: front.points[index].cost,
        loss: losses[index].measured(),
        bound: losses[index].upper_bound(confidence),
    };
    let verdict = match last_accepted(confidence) {
        Some(index) => Verdict::Certified(chosen(index)),
        None => Verdict::NotCertified {
            mildest: chosen(0),
            best: last_accepted(Confidence::POINT_ESTIMATE).map(chosen),
            images_needed: losses[0].images_needed(allowed, confidence),
        },
    };
    Choice { allowed, confidence, images: front.images, measure: front.measure(), verdict }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (measure, unit) = (self.measure.name(), self.measure.unit());
        let (target, images, confidence) = (self.allowed, self.images, self.confidence);
        match self.verdict {
            Verdict::Certified(point) => write!(
                f,
                "a {measure} of at most {target} {unit} is certified on {images} images at confidence \
                 {confidence}: setting {} costs {:.1} % of dense, {measure} {:.2} {unit}, upper bound {:.2} {unit}",
                point.setting,
                100.0 * point.cost,
                point.loss,
                point.bound,
            ),
            Verdict::NotCertified { mildest, best, images_needed } => {
                write!(
                    f,
                    "{images} images cannot certify a {measure} of at most {target} {unit} at confidence \
                     {confidence}: the mildest setting ({}) has {measure} {:.2} {unit}, upper bound {:.2} {unit}; ",
                    mildest.setting, mildest.loss, mildest.bound,
                )?;
                match images_needed {
                    Some(needed) => write!(f, "about {needed} such images would certify it")?,
                    None => write!(f, "no number of such images would, allow a larger one")?,
                }
                match best {
                    Some(best) => write!(
                        f,
                        "; by point estimate alone (confidence 0.5), setting {} costs {:.1} % of dense, {measure} {:.2} {unit}",
                        best.setting,
                        100.0 * best.cost,
                        best.loss,
                    ),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn point(setting: f64, cost: f64, dense_only: usize, pruned_only: usize) -> FrontPoint {
        FrontPoint {
            setting,
            cost,
            gmacs: 4.6 * cost,
            images: 2000,
            dense_only_right: dense_only,
            pruned_only_right: pruned_only,
            drift: None,
            fidelity: 0.01,
            keep_ratio: vec![cost; 3],
        }
    }

    fn confidence(level: f64) -> Confidence {
        Confidence::new(level).unwrap()
    }

    #[test]
    fn points_come_sorted_also_from_a_file() {
        let points = vec![point(0.8, 0.6, 9, 1), point(0.2, 0.9, 2, 1)];
        let front = Front::new(true, 2000, points).unwrap();
        assert_eq!(front.points()[0].setting, 0.2);
        let mut json = serde_json::to_value(&front).unwrap();
        json["points"].as_array_mut().unwrap().reverse();
        assert_eq!(serde_json::from_value::<Front>(json).unwrap(), front);
    }

    #[test]
    fn contradictory_points_are_refused() {
        let refuse = |points| Front::new(true, 2000, points).unwrap_err();
        assert_eq!(refuse(vec![]), FrontError::Empty);
        let mut fewer = point(0.5, 0.8, 1, 1);
        fewer.images = 1999;
        assert!(matches!(refuse(vec![fewer]), FrontError::Images { .. }));
        let nan = point(0.5, f64::NAN, 1, 1);
        assert!(matches!(refuse(vec![nan]), FrontError::NotANumber { .. }));
        let counts = point(0.5, 0.8, 1500, 600);
        assert!(matches!(refuse(vec![counts]), FrontError::Counts { .. }));
    }

    #[test]
    fn the_walk_stops_at_the_first_point_that_fails() {
        // Drops 0.0, 0.1, 1.0, 0.0 pp: the last point is cheaper and good, but comes after the stop.
        let points = vec![
            point(0.2, 0.95, 2, 2),
            point(0.4, 0.85, 6, 4),
            point(0.6, 0.75, 25, 5),
            point(0.8, 0.65, 5, 5),
        ];
        let front = Front::new(true, 2000, points).unwrap();
        let choice = choose(&front, 0.5, confidence(0.9));
        let Verdict::Certified(chosen) = choice.verdict else {
            panic!("{choice}");
        };
        assert_eq!(chosen.index, 1);
        assert_eq!(
            choice.to_string(),
            "a drop of at most 0.5 pp is certified on 2000 images at confidence 0.9: setting 0.4 \
             costs 85.0 % of dense, drop 0.10 pp, upper bound 0.31 pp"
        );
        let by_estimate = choose(&front, 1.0, Confidence::POINT_ESTIMATE);
        assert!(matches!(by_estimate.verdict, Verdict::Certified(c) if c.index == 3));
    }

    #[test]
    fn what_cannot_be_certified_says_how_many_images_would() {
        let points = vec![point(0.2, 0.95, 8, 4), point(0.4, 0.85, 9, 3)];
        let front = Front::new(true, 2000, points.clone()).unwrap();
        let choice = choose(&front, 0.3, confidence(0.9));
        let Verdict::NotCertified { mildest, best: Some(best), images_needed: Some(needed) } = choice.verdict
        else {
            panic!("{choice}");
        };
        assert_eq!((mildest.index, best.index), (0, 1));
        let line = choice.to_string();
        assert!(line.contains(&format!("about {needed} such images")), "{line}");
        assert!(!line.contains('\n'));

        let never = choose(&front, 0.1, confidence(0.9));
        assert!(matches!(never.verdict, Verdict::NotCertified { best: None, images_needed: None, .. }));
        let unlabelled = Front::new(false, 2000, points).unwrap();
        let line = choose(&unlabelled, 0.1, confidence(0.9)).to_string();
        assert!(line.contains("disagreement with the dense model"), "{line}");
        assert!(line.contains("no number of such images"), "{line}");
    }

    #[test]
    fn a_drift_is_chosen_on_as_a_drop_is() {
        // Means 0.5, 1 and 2 %; every other image has twice the drift.
        let drifting = |setting: f64, cost: f64, mean: f64| FrontPoint {
            drift: Some(
                Drift::new(2000, [2000.0 * mean, 4000.0 * mean.powi(2), 8000.0 * mean.powi(3)]).unwrap(),
            ),
            ..point(setting, cost, 0, 0)
        };
        let points = vec![drifting(0.2, 0.9, 0.5), drifting(0.4, 0.8, 1.0), drifting(0.6, 0.7, 2.0)];
        let front = Front::new(false, 2000, points.clone()).unwrap();
        let line = choose(&front, 1.5, confidence(0.9)).to_string();
        assert!(
            line.starts_with("a drift of at most 1.5 % is certified on 2000 images at confidence 0.9"),
            "{line}"
        );
        assert!(
            line.ends_with("setting 0.4 costs 80.0 % of dense, drift 1.00 %, upper bound 1.03 %"),
            "{line}"
        );
        let line = choose(&front, 0.4, confidence(0.9)).to_string();
        assert!(line.contains("no number of such images would"), "{line}");
        let json = serde_json::to_string(&front).unwrap();
        assert_eq!(serde_json::from_str::<Front>(&json).unwrap(), front);
        let mixed = vec![points[0].clone(), point(0.4, 0.8, 1, 1)];
        assert_eq!(Front::new(false, 2000, mixed), Err(FrontError::Mixed { setting: 0.4 }));
    }

    const LEVELS: usize = 20;

    /// An image of a synthetic population: for each level of pruning, its contribution to the drop. +1: only the
    /// dense model is right, -1: only the pruned model is right, 0: both or none.
    type Image = [i8; LEVELS];

    /// Images whose prediction flips at a level of pruning of their own and, for some, flips back later: drops are
    /// correlated across levels.
    fn population(size: usize, rng: &mut StdRng) -> Vec<Image> {
        let image = |rng: &mut StdRng| {
            let kind: f64 = rng.random();
            let (sign, sensitivity) = match kind {
                k if k < 0.80 => (1, 0.05),  // dense right
                k if k < 0.95 => (-1, 0.12), // dense wrong, and pruning may help
                _ => (0, 0.0),               // wrong either way
            };
            let flips: bool = rng.random::<f64>() < sensitivity;
            let at = (LEVELS as f64 * rng.random::<f64>().sqrt()) as usize;
            let back = at + (2.0 * LEVELS as f64 * rng.random::<f64>()) as usize;
            std::array::from_fn(|level| if flips && (at..=back).contains(&level) { sign } else { 0 })
        };
        (0..size).map(|_| image(rng)).collect()
    }

    fn measure(images: &[Image]) -> Front {
        let count = |level: usize, what: i8| images.iter().filter(|i| i[level] == what).count();
        let point = |level: usize| FrontPoint {
            images: images.len(),
            ..point(level as f64, 1.0 - 0.03 * (level + 1) as f64, count(level, 1), count(level, -1))
        };
        Front::new(true, images.len(), (0..LEVELS).map(point).collect()).unwrap()
    }

    #[test]
    fn chosen_settings_exceed_the_target_no_more_often_than_promised() {
        let mut rng = StdRng::seed_from_u64(11);
        let population = population(50_000, &mut rng);
        let truth = measure(&population);
        let true_loss = |index: usize| truth.points()[index].loss().unwrap().measured();
        let target_pp = 0.5;
        assert!(true_loss(0) < 0.1 && true_loss(LEVELS - 1) > 1.0);

        let (draws, mut exceeded, mut pruned) = (200, 0, 0);
        for _ in 0..draws {
            let drawn: Vec<Image> =
                (0..2000).map(|_| population[rng.random_range(0..population.len())]).collect();
            let choice = choose(&measure(&drawn), target_pp, confidence(0.9));
            if let Verdict::Certified(chosen) = choice.verdict {
                exceeded += usize::from(true_loss(chosen.index) > target_pp);
                pruned += usize::from(chosen.cost < 0.9);
            }
        }
        assert!(exceeded <= draws * 15 / 100, "{exceeded} of {draws}");
        assert!(exceeded >= 1, "a bound that never fails is not tight");
        assert!(pruned > draws * 80 / 100, "only {pruned} of {draws} prune");
    }
}
