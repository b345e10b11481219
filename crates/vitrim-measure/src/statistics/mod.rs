//! Statistics of measured figures: the drop on paired images with its bounds, means with their intervals, quantiles,
//! rank correlations.
//!
//! ```
//! use vitrim_measure::statistics::{Confidence, PairedLoss};
//!
//! // 10,000 images; 140 only the dense model got right, 110 only the pruned one.
//! let loss = PairedLoss::new(10_000, 140, 110)?;
//! assert!((loss.loss_pp() - 0.3).abs() < 1e-12);
//! let bound = loss.upper_bound(Confidence::new(0.9)?);
//! assert!((bound - 0.503).abs() < 1e-3);
//! # Ok::<(), vitrim_measure::statistics::StatsError>(())
//! ```

mod loss;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use statrs::function::erf::erf_inv;

pub use loss::{Drift, Loss, PairedLoss};

/// A figure that cannot be computed from what was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// A confidence outside `[0.5, 1)`.
    #[error("confidence `{given}` is not a number of at least 0.5 and below 1; try 0.9")]
    Confidence {
        /// The confidence that was given.
        given: String,
    },
    /// A loss on no images at all.
    #[error("a loss was asked for on 0 images; give at least one")]
    NoImages,
    /// More discordant images than images.
    #[error(
        "{dense_only_right} + {pruned_only_right} discordant images among {images} images: an image counts once; check the counts"
    )]
    Counts {
        /// Number of images.
        images: usize,
        /// Images that only the dense model got right.
        dense_only_right: usize,
        /// Images that only the pruned model got right.
        pruned_only_right: usize,
    },
}

/// The confidence of a bound or an interval: a number in `[0.5, 1)`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Confidence(f64);

impl Confidence {
    /// The default confidence.
    pub const DEFAULT: Confidence = Confidence(0.9);

    /// The point estimate: one-sided bounds at this level are the measured figure itself.
    pub const POINT_ESTIMATE: Confidence = Confidence(0.5);

    /// The confidence `level`.
    ///
    /// # Errors
    /// [`StatsError::Confidence`] outside `[0.5, 1)`.
    pub fn new(level: f64) -> Result<Confidence, StatsError> {
        if (0.5..1.0).contains(&level) {
            Ok(Confidence(level))
        } else {
            Err(StatsError::Confidence { given: level.to_string() })
        }
    }

    /// The level, in `[0.5, 1)`.
    pub fn level(self) -> f64 {
        self.0
    }

    /// The normal quantile of a one-sided bound: 1.2816 at 0.9.
    fn one_sided_z(self) -> f64 {
        std::f64::consts::SQRT_2 * erf_inv(2.0 * self.0 - 1.0)
    }

    /// The normal quantile of a two-sided interval: 1.6449 at 0.9.
    fn two_sided_z(self) -> f64 {
        std::f64::consts::SQRT_2 * erf_inv(self.0)
    }
}

impl TryFrom<f64> for Confidence {
    type Error = StatsError;

    fn try_from(level: f64) -> Result<Confidence, StatsError> {
        Confidence::new(level)
    }
}

impl From<Confidence> for f64 {
    fn from(confidence: Confidence) -> f64 {
        confidence.0
    }
}

impl FromStr for Confidence {
    type Err = StatsError;

    fn from_str(text: &str) -> Result<Confidence, StatsError> {
        let level = text.parse().map_err(|_| StatsError::Confidence { given: text.to_string() })?;
        Confidence::new(level)
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A mean with its normal interval, in the unit of the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanInterval {
    /// The mean of the values.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The mean of independent `values: [n]` and its two-sided interval, by the normal approximation.
/// None for fewer than two values, which have no spread to judge by.
pub fn mean_interval(values: &[f64], confidence: Confidence) -> Option<MeanInterval> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    let half_width = confidence.two_sided_z() * (squares / (n - 1.0) / n).sqrt();
    Some(MeanInterval { mean, low: mean - half_width, high: mean + half_width })
}

/// Quantiles of measured values: latencies, per-image costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantiles {
    sorted: Vec<f64>,
}

impl Quantiles {
    /// Sorts `values: [n]`. None without values.
    pub fn of(mut values: Vec<f64>) -> Option<Quantiles> {
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Quantiles { sorted: values })
    }

    /// The value below which a share `p` of the values lies, `p` clamped to `[0, 1]`; between two
    /// values by linear interpolation, as NumPy does.
    pub fn at(&self, p: f64) -> f64 {
        let last = self.sorted.len() - 1;
        let place = p.clamp(0.0, 1.0) * last as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        let fraction = place - below as f64;
        self.sorted[below] + fraction * (self.sorted[above] - self.sorted[below])
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// Spearman's rank correlation of `x: [n]` and `y: [n]`: Pearson's correlation of their ranks, ties
/// taking the mean of their ranks. None where one of them is constant.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let (x, y) = (ranks(x), ranks(y));
    let middle = (x.len() as f64 + 1.0) / 2.0;
    let covariance =
        |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum() };
    let scale = (covariance(&x, &x) * covariance(&y, &y)).sqrt();
    (scale > 0.0).then(|| covariance(&x, &y) / scale)
}

/// 1 for the smallest; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|i| ranks[*i] = rank);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn confidence(level: f64) -> Confidence {
        Confidence::new(level).unwrap()
    }

    pub(super) fn close(got: f64, want: f64, within: f64) {
        assert!((got - want).abs() < within, "{got}, expected {want}");
    }

    #[test]
    fn normal_quantiles_are_those_of_the_tables() {
        close(confidence(0.9).one_sided_z(), 1.281_551_565_5, 1e-9);
        close(confidence(0.9).two_sided_z(), 1.644_853_627_0, 1e-9);
        close(confidence(0.95).two_sided_z(), 1.959_963_984_5, 1e-9);
        assert_eq!(confidence(0.5).one_sided_z(), 0.0);
    }

    #[test]
    fn confidence_is_checked_at_every_way_in() {
        for level in [0.49, 1.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Confidence::new(level).is_err(), "{level}");
        }
        assert_eq!("0.95".parse::<Confidence>().unwrap(), confidence(0.95));
        let error = "high".parse::<Confidence>().unwrap_err().to_string();
        assert_eq!(error, "confidence `high` is not a number of at least 0.5 and below 1; try 0.9");
        assert!(serde_json::from_str::<Confidence>("1.5").is_err());
        assert_eq!(serde_json::to_string(&confidence(0.9)).unwrap(), "0.9");
    }

    #[test]
    fn mean_interval_equals_the_numbers_by_hand() {
        // Mean 5, variance 32 / 7, standard error sqrt(32 / 56) = 0.755929.
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let interval = mean_interval(&values, confidence(0.95)).unwrap();
        assert_eq!(interval.mean, 5.0);
        close(interval.high - 5.0, 1.959_964 * 0.755_929, 1e-5);
        close(5.0 - interval.low, 1.959_964 * 0.755_929, 1e-5);
        assert_eq!(mean_interval(&[1.0], confidence(0.9)), None);
    }

    #[test]
    fn quantiles_interpolate_as_numpy_does() {
        let quantiles = Quantiles::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(quantiles.median(), 2.5);
        assert_eq!(quantiles.at(0.0), 1.0);
        assert_eq!(quantiles.at(1.0), 4.0);
        close(quantiles.at(0.9), 3.7, 1e-12);
        assert_eq!(Quantiles::of(vec![5.0]).unwrap().at(0.99), 5.0);
        assert_eq!(Quantiles::of(vec![]), None);
    }

    #[test]
    fn rank_correlation_equals_the_numbers_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // Ranks 1 2.5 2.5 4 and 1 3 2 4: covariance 4.5, variances 4.5 and 5.
        let rho = spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 5.0, 4.0, 9.0]).unwrap();
        assert!((rho - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12, "{rho}");
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[], &[]), None);
    }
}
