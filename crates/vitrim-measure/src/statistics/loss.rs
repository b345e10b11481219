//! The loss of pruning on images that both models ran on, with its bounds: a drop of top-1, or a drift of features.

use serde::{Deserialize, Serialize};

use super::{Confidence, StatsError};

/// The number of images at which [`Loss::images_needed`] gives up.
const MOST_IMAGES: u64 = 1 << 53;

/// The drop (dense minus pruned top-1) on images that both models saw.
///
/// Intervals are those of Agresti and Min, "Simple improved confidence intervals for comparing
/// matched proportions", Statistics in Medicine 24 (2005), 729-740: Wald's interval after adding
/// 0.5 to each of the four cells of the paired table, hence 2 to the number of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairedLoss {
    images: usize,
    dense_only_right: usize,
    pruned_only_right: usize,
}

impl PairedLoss {
    /// The drop on `images` images, of which `dense_only_right` were right only in the dense model
    /// and `pruned_only_right` only in the pruned one.
    ///
    /// # Errors
    /// [`StatsError::NoImages`] without images, [`StatsError::Counts`] when the counts exceed them.
    pub fn new(
        images: usize,
        dense_only_right: usize,
        pruned_only_right: usize,
    ) -> Result<PairedLoss, StatsError> {
        if images == 0 {
            return Err(StatsError::NoImages);
        }
        match dense_only_right.checked_add(pruned_only_right) {
            Some(discordant) if discordant <= images => {
                Ok(PairedLoss { images, dense_only_right, pruned_only_right })
            }
            _ => Err(StatsError::Counts { images, dense_only_right, pruned_only_right }),
        }
    }

    /// Images that both models saw.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The measured drop, in pp. Negative if the pruned model is better.
    pub fn loss_pp(&self) -> f64 {
        let lost = self.dense_only_right as f64 - self.pruned_only_right as f64;
        100.0 * lost / self.images as f64
    }

    /// The two-sided interval `(low, high)` of the drop, in pp.
    pub fn interval(&self, confidence: Confidence) -> (f64, f64) {
        let z = confidence.two_sided_z();
        let (center, error) = self.adjusted(self.images as f64);
        ((center - z * error).max(-100.0), (center + z * error).min(100.0))
    }

    /// The one-sided upper bound of the drop, in pp.
    ///
    /// At a confidence of 0.5 this is [`PairedLoss::loss_pp`], without the adjustment, because 0.5 means the point
    /// estimate. The bound is never below the point estimate; with the adjustment alone, which pulls towards 0, it
    /// would be at confidences just above 0.5.
    ///
    /// At 0.9 and some ten or more discordant images, the bound is below the true drop in 10 to
    /// 12 % of draws; the worst case, a handful of discordant images all on one side, is 14 %.
    pub fn upper_bound(&self, confidence: Confidence) -> f64 {
        self.upper_bound_on(self.images as f64, confidence)
    }

    fn share(&self, count: usize) -> f64 {
        count as f64 / self.images as f64
    }

    /// The upper bound in pp, if these shares had been seen on `images` images.
    fn upper_bound_on(&self, images: f64, confidence: Confidence) -> f64 {
        if confidence == Confidence::POINT_ESTIMATE {
            return self.loss_pp();
        }
        let (center, error) = self.adjusted(images);
        let bound = center + confidence.one_sided_z() * error;
        bound.max(self.loss_pp()).min(100.0)
    }

    /// The adjusted estimate and its standard error in pp, if these shares had been seen on `images` images: with b,
    /// c the discordant counts and b^, c^, n^ for b + 0.5, c + 0.5, n + 2, (b^ - c^) / n^ and sqrt(b^ + c^ - (b^ -
    /// c^)^2 / n^) / n^.
    fn adjusted(&self, images: f64) -> (f64, f64) {
        let n = images + 2.0;
        let b = images * self.share(self.dense_only_right) + 0.5;
        let c = images * self.share(self.pruned_only_right) + 0.5;
        let variance = b + c - (b - c).powi(2) / n;
        (100.0 * (b - c) / n, 100.0 * variance.sqrt() / n)
    }
}

/// The drift of pooled features on images that both models saw: 100 (1 - cos), percent.
///
/// Most images drift a little and a few far: the distribution of drifts is skewed, and the normal approximation would
/// understate the upper bound. Bounds are Johnson's, "Modified t tests and confidence intervals for asymmetrical
/// populations", Journal of the American Statistical Association 73 (1978), 536-544, with the normal quantile: mean +
/// s / sqrt(n) (z + g (1 + 2 z^2) / (6 sqrt(n))), g the skewness.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    images: usize,
    mean: f64,
    deviation: f64,
    skewness: f64,
}

impl Drift {
    /// The drift on `images` images, the powers 1 to 3 of whose drifts have the sums `sums`, in percent, percent
    /// squared and cubed.
    ///
    /// # Errors
    /// [`StatsError::NoImages`] without images.
    pub fn new(images: usize, sums: [f64; 3]) -> Result<Drift, StatsError> {
        if images == 0 {
            return Err(StatsError::NoImages);
        }
        let [mean, square, cube] = sums.map(|sum| sum / images as f64);
        let variance = (square - mean * mean).max(0.0);
        let deviation = variance.sqrt();
        let third = cube - 3.0 * mean * square + 2.0 * mean.powi(3);
        // If drifts hardly differ, the third moment is rounding error.
        let skewness = if deviation > 1e-9 * mean.abs() { third / deviation.powi(3) } else { 0.0 };
        Ok(Drift { images, mean, deviation, skewness })
    }

    /// The two-sided interval `(low, high)`.
    pub fn interval(&self, confidence: Confidence) -> (f64, f64) {
        let z = confidence.two_sided_z();
        (self.bound(self.images as f64, -z).max(0.0), self.bound(self.images as f64, z))
    }

    fn upper_bound_on(&self, images: f64, confidence: Confidence) -> f64 {
        if confidence == Confidence::POINT_ESTIMATE {
            return self.mean;
        }
        self.bound(images, confidence.one_sided_z())
    }

    /// The bound `z` standard errors from the mean, if these moments had been seen on `images` images.
    fn bound(&self, images: f64, z: f64) -> f64 {
        let root = images.sqrt();
        self.mean + self.deviation / root * (z + self.skewness * (1.0 + 2.0 * z * z) / (6.0 * root))
    }
}

/// The loss of pruning, percent: the quantity that a user limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Loss of top-1, pp; without labels, of agreement with the dense model.
    Accuracy(PairedLoss),
    /// Drift of the features, for backbones without classes.
    Drift(Drift),
}

impl Loss {
    /// The measured loss.
    pub fn measured(&self) -> f64 {
        match self {
            Loss::Accuracy(loss) => loss.loss_pp(),
            Loss::Drift(drift) => drift.mean,
        }
    }

    /// The two-sided interval `(low, high)` of the loss.
    pub fn interval(&self, confidence: Confidence) -> (f64, f64) {
        match self {
            Loss::Accuracy(loss) => loss.interval(confidence),
            Loss::Drift(drift) => drift.interval(confidence),
        }
    }

    /// The one-sided upper bound of the loss; at a confidence of 0.5, the measured loss.
    pub fn upper_bound(&self, confidence: Confidence) -> f64 {
        let images = match self {
            Loss::Accuracy(loss) => loss.images,
            Loss::Drift(drift) => drift.images,
        };
        self.upper_bound_on(images as f64, confidence)
    }

    /// How many images it takes for [`Loss::upper_bound`] to reach `target`, if everything but their number stays the
    /// same. None if no number of images would: the measured loss exceeds the target, or equals it and the confidence
    /// is above 0.5.
    pub fn images_needed(&self, target: f64, confidence: Confidence) -> Option<usize> {
        let certified = |images: u64| self.upper_bound_on(images as f64, confidence) <= target;
        let mut enough = 1;
        while !certified(enough) {
            if enough >= MOST_IMAGES {
                return None;
            }
            enough *= 2;
        }
        let mut too_few = enough / 2;
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            if certified(middle) {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        usize::try_from(enough).ok()
    }

    fn upper_bound_on(&self, images: f64, confidence: Confidence) -> f64 {
        match self {
            Loss::Accuracy(loss) => loss.upper_bound_on(images, confidence),
            Loss::Drift(drift) => drift.upper_bound_on(images, confidence),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::tests::{close, confidence};
    use super::*;

    #[test]
    fn paired_drop_equals_the_numbers_by_hand() {
        // n = 1600, b = 150, c = 86: b^ - c^ = 64, b^ + c^ = 237, n^ = 1602;
        // variance 237 - 4096 / 1602 = 234.4432, root 15.31154.
        let loss = PairedLoss::new(1600, 150, 86).unwrap();
        close(loss.loss_pp(), 4.0, 1e-12);
        let (low, high) = loss.interval(confidence(0.95));
        close(low, 100.0 * (64.0 - 1.959_964 * 15.311_54) / 1602.0, 1e-4);
        close(high, 100.0 * (64.0 + 1.959_964 * 15.311_54) / 1602.0, 1e-4);
        let bound = loss.upper_bound(confidence(0.9));
        close(bound, 100.0 * (64.0 + 1.281_552 * 15.311_54) / 1602.0, 1e-4);
        // The one-sided bound at 0.975 is the upper end of the two-sided interval at 0.95.
        close(loss.upper_bound(confidence(0.975)), high, 1e-9);
    }

    #[test]
    fn without_discordant_images_the_bound_still_has_a_width() {
        let loss = PairedLoss::new(998, 0, 0).unwrap();
        assert_eq!(loss.loss_pp(), 0.0);
        close(loss.upper_bound(confidence(0.9)), 0.128_155, 1e-5);
        let (low, high) = PairedLoss::new(1, 1, 0).unwrap().interval(confidence(0.99));
        assert!(low >= -100.0 && high <= 100.0);
    }

    #[test]
    fn at_confidence_one_half_the_bound_is_the_point_estimate() {
        for (b, c) in [(40, 0), (0, 40), (7, 7), (100, 0)] {
            let loss = PairedLoss::new(100, b, c).unwrap();
            assert_eq!(loss.upper_bound(Confidence::POINT_ESTIMATE), loss.loss_pp());
            assert!(loss.upper_bound(confidence(0.500_001)) >= loss.loss_pp());
        }
    }

    #[test]
    fn impossible_counts_are_refused() {
        assert_eq!(PairedLoss::new(0, 0, 0).unwrap_err(), StatsError::NoImages);
        for (b, c) in [(6, 5), (usize::MAX, 1)] {
            assert!(matches!(PairedLoss::new(10, b, c).unwrap_err(), StatsError::Counts { .. }));
        }
    }

    #[test]
    fn images_needed_is_the_first_number_that_certifies() {
        let loss = PairedLoss::new(2000, 30, 24).map(Loss::Accuracy).unwrap();
        let needed = loss.images_needed(0.5, confidence(0.9)).unwrap();
        let at = |n: usize| loss.upper_bound_on(n as f64, confidence(0.9));
        assert!(at(needed) <= 0.5 && at(needed - 1) > 0.5);
        // Computed by hand, without the adjustment: 0.3 + 128.155 sqrt((0.027 - 0.000009) / n) = 0.5 at n = 11,081.
        assert!((11_000..11_300).contains(&needed), "{needed}");

        assert_eq!(loss.images_needed(0.2, confidence(0.9)), None);
        assert_eq!(loss.images_needed(loss.measured(), confidence(0.9)), None);
        assert_eq!(loss.images_needed(0.3, confidence(0.5)), Some(1));
        assert_eq!(loss.images_needed(f64::NAN, confidence(0.9)), None);
        // No discordant images: z / (n + 2) = 0.1 % at n = 1279.55.
        let same = PairedLoss::new(50, 0, 0).map(Loss::Accuracy).unwrap();
        assert_eq!(same.images_needed(0.1, confidence(0.9)), Some(1280));
    }

    /// The share of 4,000 draws of `images` images in which the bound is below the true drop.
    fn misses(images: usize, dense_only: f64, pruned_only: f64, level: f64) -> f64 {
        let mut rng = StdRng::seed_from_u64(7);
        let truth_pp = 100.0 * (dense_only - pruned_only);
        let draws = 4000;
        let missed = (0..draws).filter(|_| {
            let (mut b, mut c) = (0, 0);
            for _ in 0..images {
                let u: f64 = rng.random();
                b += usize::from(u < dense_only);
                c += usize::from((dense_only..dense_only + pruned_only).contains(&u));
            }
            let loss = PairedLoss::new(images, b, c).unwrap();
            loss.upper_bound(confidence(level)) < truth_pp
        });
        missed.count() as f64 / f64::from(draws)
    }

    #[test]
    fn the_upper_bound_covers_as_often_as_it_says() {
        for (dense_only, pruned_only) in [(0.02, 0.015), (0.03, 0.02), (0.012, 0.002)] {
            let at_90 = misses(2000, dense_only, pruned_only, 0.9);
            assert!((0.08..0.13).contains(&at_90), "{dense_only}: {at_90}");
            let at_95 = misses(2000, dense_only, pruned_only, 0.95);
            assert!((0.035..0.075).contains(&at_95), "{dense_only}: {at_95}");
        }
        // The worst case of the doc comment: two discordant images expected, all on one side.
        let worst = misses(2000, 0.001, 0.0, 0.9);
        assert!(worst < 0.16, "{worst}");
    }

    fn drift(values: &[f64]) -> Drift {
        let power = |p: i32| values.iter().map(|v| v.powi(p)).sum::<f64>();
        Drift::new(values.len(), [power(1), power(2), power(3)]).unwrap()
    }

    #[test]
    fn drift_equals_the_numbers_by_hand() {
        // Drifts 0, 0, 0, 4: mean 1, variance 3, third moment (3 x -1 + 27) / 4 = 6, skewness 6 / 3^1.5 = 1.154701.
        let one = drift(&[0.0, 0.0, 0.0, 4.0]);
        close(one.mean, 1.0, 1e-12);
        close(one.deviation, 3f64.sqrt(), 1e-12);
        close(one.skewness, 1.154_700_5, 1e-6);
        // z = 1.281552 at 0.9: 1 + 1.732051 / 2 (1.281552 + 1.154701 x 4.284748 / 12).
        close(Loss::Drift(one).upper_bound(confidence(0.9)), 2.466_92, 1e-4);
        assert_eq!(Loss::Drift(one).upper_bound(Confidence::POINT_ESTIMATE), 1.0);
        let same = Loss::Drift(drift(&[0.3; 50]));
        close(same.upper_bound(confidence(0.99)), 0.3, 1e-6);
        assert_eq!(Drift::new(0, [0.0; 3]), Err(StatsError::NoImages));
        let needed = Loss::Drift(one).images_needed(1.1, confidence(0.9)).unwrap();
        let at = |n: usize| one.upper_bound_on(n as f64, confidence(0.9));
        assert!(at(needed) <= 1.1 && at(needed - 1) > 1.1, "{needed}");
        assert_eq!(Loss::Drift(one).images_needed(0.9, confidence(0.9)), None);
    }

    #[test]
    fn the_drifts_bound_covers_as_often_as_it_says() {
        // Log-normal with deviation 1: mean e^0.5, skewness 6.2, similar to drifts of features.
        let mut rng = StdRng::seed_from_u64(3);
        let mut normal = || {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let (draws, truth) = (2000, 0.5f64.exp());
        for (level, expected) in [(0.9, 0.08..0.125), (0.95, 0.035..0.075)] {
            let missed = (0..draws).filter(|_| {
                let values: Vec<f64> = (0..500).map(|_| normal().exp()).collect();
                Loss::Drift(drift(&values)).upper_bound(confidence(level)) < truth
            });
            let share = missed.count() as f64 / f64::from(draws);
            assert!(expected.contains(&share), "{level}: {share}");
        }
    }
}
