//! The order in which a data set is visited: as stored, or a permutation that depends only on (index, seed, epoch).

use serde::{Deserialize, Serialize};
use vitrim_random::mix;

/// The order of one pass over a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As stored.
    #[default]
    Sequential,
    /// A permutation keyed by `seed` and `epoch`, the same on every machine and for every number of
    /// workers.
    Shuffled {
        /// The run's seed.
        seed: u64,
        /// The pass, counted from 0.
        epoch: u64,
    },
}

/// The objects of a permutation, so that rows and row groups with equal indices get unrelated keys.
#[derive(Clone, Copy)]
pub(crate) enum Shuffling {
    Images = 1,
    RowGroups = 2,
}

/// Permutes `indices` by sorting them under a keyed hash of each.
///
/// With sorting by keys, unlike with Fisher-Yates, an index's key does not depend on the number of indices.
pub(crate) fn shuffle(indices: &mut [usize], what: Shuffling, seed: u64, epoch: u64) {
    let stream = mix(mix(mix(seed).wrapping_add(what as u64)).wrapping_add(epoch));
    indices.sort_by_cached_key(|&i| (mix(stream ^ mix(i as u64)), i));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(n: usize, what: Shuffling, seed: u64, epoch: u64) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..n).collect();
        shuffle(&mut indices, what, seed, epoch);
        indices
    }

    #[test]
    fn a_shuffle_is_a_permutation_that_seed_epoch_and_kind_change() {
        let base = shuffled(1000, Shuffling::Images, 1, 0);
        let mut sorted = base.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(base, shuffled(1000, Shuffling::Images, 1, 0));
        assert_ne!(base, shuffled(1000, Shuffling::Images, 1, 1));
        assert_ne!(base, shuffled(1000, Shuffling::Images, 2, 0));
        assert_ne!(base, shuffled(1000, Shuffling::RowGroups, 1, 0));
    }

    #[test]
    fn the_permutation_is_pinned() {
        // A resumed run must get the same order as before, on any platform and in any version.
        assert_eq!(shuffled(8, Shuffling::Images, 42, 3), PINNED);
    }

    const PINNED: [usize; 8] = [5, 1, 4, 6, 3, 0, 7, 2];

    #[test]
    fn no_position_is_favoured() {
        // Mean displacement of a uniform permutation of n is (n^2 - 1) / (3 n).
        let n = 4096;
        let moved: usize =
            shuffled(n, Shuffling::Images, 7, 0).iter().enumerate().map(|(at, &i)| at.abs_diff(i)).sum();
        let mean = moved as f64 / n as f64;
        assert!((mean - n as f64 / 3.0).abs() < 0.05 * n as f64, "{mean}");
    }
}
