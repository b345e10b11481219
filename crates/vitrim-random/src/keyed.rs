//! Random numbers by key: batching and threads do not change them.

use crate::{STEP, finalise};

/// The first output of the stream of `seed`: a hash of one word.
pub fn mix(seed: u64) -> u64 {
    finalise(seed.wrapping_add(STEP))
}

/// A uniform value in 0..1 that is a pure function of `key`: its words' hashes, chained.
pub fn uniform(key: &[u64]) -> f64 {
    let mut state = 0x243f_6a88_85a3_08d3; // digits of pi
    for word in key {
        state = chained(state ^ chained(word.wrapping_add(STEP)));
    }
    (state >> 11) as f64 / (1u64 << 53) as f64
}

/// Like [`mix`], with the step after the output function. Published results depend on these numbers, so that this
/// must not change.
fn chained(word: u64) -> u64 {
    finalise(word).wrapping_add(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // First output of the reference implementation at seed 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        // The value of the first version.
        assert_eq!(uniform(&[]), 0.14159265358979323);
        assert_eq!(uniform(&[1, 2, 3]), 0.515132658406872);
    }

    #[test]
    fn keys_decide_and_values_are_uniform() {
        assert_eq!(uniform(&[1, 2, 3]), uniform(&[1, 2, 3]));
        assert_ne!(uniform(&[1, 2, 3]), uniform(&[1, 3, 2]));
        let n = 100_000;
        let values: Vec<f64> = (0..n).map(|i| uniform(&[7, i / 100, i % 100])).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let below_tenth = values.iter().filter(|v| **v < 0.1).count() as f64 / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((below_tenth - 0.1).abs() < 0.005, "{below_tenth}");
        let neighbours: f64 = values.windows(2).map(|w| (w[0] - 0.5) * (w[1] - 0.5)).sum::<f64>() / n as f64;
        assert!(neighbours.abs() < 0.002, "{neighbours}");
    }
}
