//! The decoding rate, and whether it is high enough.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The decoding rate, and whether it is high enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeRate {
    /// Images read, decoded and resized so far, bad ones included.
    pub images: usize,
    /// Number of decoding threads.
    pub threads: usize,
    /// Images/s of all threads while they worked: the rate for a consumer that never waits.
    pub images_per_s: f64,
    /// Seconds for which the consumer waited for images.
    pub waited_s: f64,
}

impl DecodeRate {
    /// The rate of `images` that took `busy_s` seconds, summed over the threads.
    pub(crate) fn of(images: usize, threads: usize, busy_s: f64, waited_s: f64) -> Self {
        let images_per_s = if busy_s > 0.0 { (images * threads) as f64 / busy_s } else { 0.0 };
        Self { images, threads, images_per_s, waited_s }
    }

    /// Seconds of work, summed over the threads.
    fn busy_s(&self) -> f64 {
        if self.images_per_s > 0.0 { (self.images * self.threads) as f64 / self.images_per_s } else { 0.0 }
    }

    /// The sum of both, with the larger number of threads.
    fn and(&self, other: &Self) -> Self {
        Self::of(
            self.images + other.images,
            self.threads.max(other.threads),
            self.busy_s() + other.busy_s(),
            self.waited_s + other.waited_s,
        )
    }
}

/// The rate over all passes that have ended.
#[derive(Debug, Default)]
pub(crate) struct DecodeTotals(Mutex<DecodeRate>);

impl DecodeTotals {
    pub(crate) fn add(&self, pass: &DecodeRate) {
        // Four numbers are valid after a panic elsewhere.
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = sum.and(pass);
    }

    pub(crate) fn sum(&self) -> DecodeRate {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_add_up_by_their_work() {
        let totals = DecodeTotals::default();
        assert_eq!(totals.sum(), DecodeRate::default());
        totals.add(&DecodeRate::of(30, 2, 3.0, 0.5));
        totals.add(&DecodeRate::of(10, 2, 5.0, 0.25));
        let sum = totals.sum();
        assert_eq!((sum.images, sum.threads, sum.waited_s), (40, 2, 0.75));
        assert!((sum.images_per_s - 10.0).abs() < 1e-9, "{sum:?}");
    }
}
