//! Random numbers by key: batching and threads do not change them.

/// A uniform value in 0..1 that is a pure function of `key` (a SplitMix64 chain over its words).
pub fn uniform(key: &[u64]) -> f64 {
    let mut state = 0x243f_6a88_85a3_08d3; // digits of pi
    for word in key {
        state = mix(state ^ mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    }
    (state >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

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
