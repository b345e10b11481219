//! The time of a forward pass by operation.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A part of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Cutting out and embedding the patches.
    PatchEmbedding,
    /// A block's first LayerNorm and its QKV layer.
    NormQkv,
    /// Scores, softmax and sums of values, and the taps.
    Attention,
    /// Attention's projection and residual.
    Projection,
    /// A block's second LayerNorm, MLP and residual.
    NormMlp,
    /// Dropping or merging tokens.
    Compaction,
    /// Final norm, pooling and head.
    Head,
}

impl Operation {
    /// All operations, in the order of the data flow.
    pub const ALL: [Operation; 7] = [
        Operation::PatchEmbedding,
        Operation::NormQkv,
        Operation::Attention,
        Operation::Projection,
        Operation::NormMlp,
        Operation::Compaction,
        Operation::Head,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Operation::PatchEmbedding => "patch embedding",
            Operation::NormQkv => "norm + QKV",
            Operation::Attention => "attention",
            Operation::Projection => "projection",
            Operation::NormMlp => "norm + MLP",
            Operation::Compaction => "compaction",
            Operation::Head => "norm + head",
        })
    }
}

/// Wall-clock time of each operation, over all passes since it was last taken. Times of parallel passes add up.
#[derive(Debug, Default)]
pub struct Profile {
    nanoseconds: [AtomicU64; Operation::ALL.len()],
}

impl Profile {
    /// Runs `work`, and adds its time to that of `operation`.
    pub(crate) fn time<T>(&self, operation: Operation, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[operation as usize].fetch_add(nanoseconds, Relaxed);
        done
    }

    /// Divides `elapsed` among the operations in `parts`, which ran in parallel, in the ratio of their times there.
    pub(crate) fn share_out(&self, elapsed: Duration, parts: &Profile) {
        let times = parts.take();
        let all: Duration = times.iter().sum();
        let share = elapsed.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
        for (counter, time) in self.nanoseconds.iter().zip(times) {
            counter.fetch_add((share * time.as_nanos() as f64) as u64, Relaxed);
        }
    }

    /// The time of each of [`Operation::ALL`] since the last call.
    pub fn take(&self) -> [Duration; Operation::ALL.len()] {
        self.nanoseconds.each_ref().map(|counter| Duration::from_nanos(counter.swap(0, Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_once() {
        let profile = Profile::default();
        let pause = Duration::from_millis(2);
        assert_eq!(profile.time(Operation::Attention, || (std::thread::sleep(pause), 7).1), 7);
        profile.time(Operation::Attention, || std::thread::sleep(pause));
        for (operation, time) in Operation::ALL.into_iter().zip(profile.take()) {
            assert_eq!(time >= 2 * pause, operation == Operation::Attention, "{operation}: {time:?}");
        }
        assert_eq!(profile.take(), [Duration::ZERO; Operation::ALL.len()]);
    }

    #[test]
    fn parts_share_the_time_that_passed() {
        let (profile, parts) = (Profile::default(), Profile::default());
        parts.nanoseconds[Operation::Attention as usize].store(3000, Relaxed);
        parts.nanoseconds[Operation::NormMlp as usize].store(1000, Relaxed);
        profile.share_out(Duration::from_nanos(2000), &parts);
        let times = profile.take();
        assert_eq!(times[Operation::Attention as usize], Duration::from_nanos(1500));
        assert_eq!(times[Operation::NormMlp as usize], Duration::from_nanos(500));
        profile.share_out(Duration::from_nanos(2000), &Profile::default());
        assert_eq!(profile.take(), [Duration::ZERO; Operation::ALL.len()]);
    }
}
