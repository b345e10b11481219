//! Images a second of several models, side by side.
//!
//! Rounds alternate between the models over the same pixels in memory, so that whatever else the
//! machine does hits all alike; medians over the rounds are reported.

pub mod bench;
pub(crate) mod bench_images;
pub(crate) mod budgets;
pub mod machine;
pub(crate) mod peak_memory;

use std::thread;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};
use vitrim_prune::{ImageKey, Pruner, run_to_end};
use vitrim_vit::{Backbone, CpuBackbone, Operation, PixelBatch, Reduction, Site, Taps, View, VitSpec, Want};

use crate::error::{MeasureError, Result};
use crate::statistics::Quantiles;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpeedOptions {
    /// Rounds at least.
    pub rounds: usize,
    /// Time to measure for, warm-up excluded: more rounds where the models are fast, fewer images a round
    /// where they are slow.
    pub time: Duration,
    /// Batches a round at most.
    pub batches: usize,
}

/// A model's speed at one batch size.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Median over the rounds.
    pub images_per_s: f64,
    /// Median time of a batch, ms.
    pub p50_ms: f64,
    /// A tenth of the batches take longer, ms.
    pub p90_ms: f64,
    /// A hundredth of the batches take longer, ms.
    pub p99_ms: f64,
}

/// Both models' speed at one batch size.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedUp {
    /// Images a batch.
    pub batch: usize,
    /// The dense model.
    pub dense: Rate,
    /// The pruned model, the pruner's own time included.
    pub pruned: Rate,
    /// Pruned over dense images/s.
    pub speed_up: f64,
    /// Rounds measured.
    pub rounds: usize,
    /// Images a round.
    pub images: usize,
}

/// Images in memory.
#[derive(Clone, Copy)]
pub(crate) struct Pixels<'a> {
    /// `[N, 3, H, W]`.
    pub data: &'a [f32],
    /// `[N]`.
    pub keys: &'a [ImageKey],
}

impl<'a> Pixels<'a> {
    /// Images `at * size .. (at + 1) * size`.
    fn batch(&self, at: usize, size: usize) -> (PixelBatch<'a>, &'a [ImageKey]) {
        let values = self.data.len() / self.keys.len();
        let range = at * size..(at + 1) * size;
        let data = &self.data[range.start * values..range.end * values];
        (PixelBatch::new(data, size), &self.keys[range])
    }
}

/// Batches in flight at once, each on threads of its own: what a service does that answers several requests. More batches
/// are done in a second than by all threads on one at a time, as nobody waits for anybody; each takes longer.
pub(crate) struct Streams {
    /// Of each stream; none where batches follow each other on the caller's threads.
    pools: Vec<ThreadPool>,
}

impl Streams {
    /// One batch after the other, on the caller's threads.
    pub const ONE: Streams = Streams { pools: Vec::new() };

    /// `count` streams, among which the caller's number of threads is shared out.
    ///
    /// # Errors
    /// If there are fewer threads than streams, or they cannot be started.
    pub fn new(count: usize) -> Result<Self> {
        if count <= 1 {
            return Ok(Streams::ONE);
        }
        let threads = rayon::current_num_threads();
        if count > threads {
            return Err(MeasureError::Setting(format!(
                "{count} streams need a thread each, and there are {threads}: ask for fewer, or for more threads"
            )));
        }
        let pool = |i: usize| {
            let own = (i + 1) * threads / count - i * threads / count;
            ThreadPoolBuilder::new().num_threads(own).build()
        };
        let pools = (0..count).map(pool).collect::<std::result::Result<_, _>>();
        Ok(Streams {
            pools: pools.map_err(|error| MeasureError::Setting(format!("{count} streams: {error}")))?,
        })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.pools.len().max(1)
    }

    /// Does `work` on each of `lanes` at once, a stream each.
    fn run<L: Send, T: Send>(&self, lanes: Vec<L>, work: impl Fn(L) -> Result<T> + Sync) -> Result<Vec<T>> {
        if self.pools.is_empty() {
            return lanes.into_iter().map(work).collect();
        }
        assert_eq!(lanes.len(), self.pools.len(), "a lane a stream");
        let work = &work;
        thread::scope(|scope| {
            let streams: Vec<_> = lanes
                .into_iter()
                .zip(&self.pools)
                .map(|(lane, pool)| scope.spawn(move || pool.install(|| work(lane))))
                .collect();
            streams.into_iter().map(|stream| stream.join().expect("no stream panics")).collect()
        })
    }
}

/// A model to be timed, dense or pruned.
pub(crate) struct Entrant<'a> {
    model: &'a CpuBackbone,
    /// One for each stream; none for a dense model.
    pruners: Vec<Timed<'a>>,
}

/// An entrant on one stream.
struct Lane<'l, 'a> {
    model: &'a CpuBackbone,
    pruner: Option<&'l mut Timed<'a>>,
}

impl<'a> Entrant<'a> {
    /// `model` as it is.
    pub fn dense(model: &'a CpuBackbone) -> Self {
        Entrant { model, pruners: Vec::new() }
    }

    /// `model` pruned by `pruners`, alike, one for each stream.
    pub fn pruned(model: &'a CpuBackbone, pruners: impl IntoIterator<Item = &'a mut dyn Pruner>) -> Self {
        let timed = |pruner| Timed { pruner, scoring: Duration::ZERO };
        Entrant { model, pruners: pruners.into_iter().map(timed).collect() }
    }

    /// One for each of `streams`.
    fn lanes(&mut self, streams: usize) -> Vec<Lane<'_, 'a>> {
        let model = self.model;
        if self.pruners.is_empty() {
            return (0..streams).map(|_| Lane { model, pruner: None }).collect();
        }
        assert_eq!(self.pruners.len(), streams, "a pruner a stream");
        self.pruners.iter_mut().map(|pruner| Lane { model, pruner: Some(pruner) }).collect()
    }

    /// What was spent on each operation, and on scoring, since the last call.
    fn take_times(&mut self) -> ([Duration; Operation::ALL.len()], Duration) {
        let scoring = self.pruners.iter_mut().map(|pruner| std::mem::take(&mut pruner.scoring));
        (self.model.profile().take(), scoring.sum())
    }
}

impl Lane<'_, '_> {
    fn pass(&mut self, (pixels, keys): (PixelBatch<'_>, &[ImageKey])) -> Result<()> {
        let want = Want::answer(self.model.spec());
        let Some(pruner) = &mut self.pruner else {
            self.model.dense(pixels, want)?;
            return Ok(());
        };
        rayon::scope(|_| {
            let mut state = self.model.embed(pixels)?;
            run_to_end(self.model, *pruner, &mut state, keys)?;
            self.model.finish(&state, want)?;
            Ok(())
        })
    }
}

/// A pruner whose own time is counted.
struct Timed<'a> {
    pruner: &'a mut dyn Pruner,
    scoring: Duration,
}

impl Pruner for Timed<'_> {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        self.pruner.sites(spec)
    }

    fn begin(&mut self, images: &[ImageKey]) {
        self.pruner.begin(images);
    }

    fn decide(&mut self, stage: usize, view: &View<'_>) -> vitrim_prune::Result<Reduction> {
        let started = Instant::now();
        let reduction = self.pruner.decide(stage, view);
        self.scoring += started.elapsed();
        reduction
    }

    fn macs(&self, stage: usize, tokens: usize) -> u64 {
        self.pruner.macs(stage, tokens)
    }
}

/// What was measured of an entrant.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Its speed.
    pub rate: Rate,
    /// Mean time of a batch, ms.
    pub batch_ms: f64,
    /// Of that, what each of [`Operation::ALL`] takes, ms.
    pub operations_ms: [f64; Operation::ALL.len()],
    /// Of that, what the pruner's decisions take, ms.
    pub scoring_ms: f64,
}

impl Timing {
    /// Mean time of a batch that neither an operation nor the pruner takes, ms.
    pub fn rest_ms(&self) -> f64 {
        self.batch_ms - self.scoring_ms - self.operations_ms.iter().sum::<f64>()
    }

    /// Share of the time that decisions and compaction take: what pruning costs.
    pub fn overhead(&self) -> f64 {
        (self.scoring_ms + self.operations_ms[Operation::Compaction as usize]) / self.batch_ms
    }
}

/// What was measured of all entrants.
#[derive(Clone, Debug)]
pub(crate) struct Race {
    /// Of each.
    pub timings: Vec<Timing>,
    /// Rounds measured.
    pub rounds: usize,
    /// Images a round.
    pub images: usize,
}

/// Measures `entrants`, `batch` images at a time, in as many `streams`.
///
/// # Errors
/// If there are fewer images than a batch, or a model refuses.
///
/// # Panics
/// If an entrant has pruners, but not one for each stream.
pub(crate) fn race(
    entrants: &mut [Entrant<'_>],
    pixels: Pixels<'_>,
    batch: usize,
    streams: &Streams,
    options: SpeedOptions,
) -> Result<Race> {
    let available = pixels.keys.len().checked_div(batch).unwrap_or(0).min(options.batches);
    if available == 0 {
        let images = pixels.keys.len();
        return Err(MeasureError::Setting(format!("{images} images are too few for a batch of {batch}")));
    }
    // Warm-up, which also says how many batches fit into the time.
    let started = Instant::now();
    let mut warm = 0;
    while warm < 2 || (started.elapsed() < options.time / 10 && warm < available) {
        for entrant in &mut *entrants {
            let lanes = entrant.lanes(streams.count());
            streams.run(lanes, |mut lane| lane.pass(pixels.batch(warm % available, batch)))?;
        }
        warm += 1;
    }
    let once = started.elapsed().as_secs_f64() / warm as f64;
    let fitting = options.time.as_secs_f64() / (options.rounds as f64 * once);
    let batches = (fitting as usize).clamp(1, available);

    let mut clocks: Vec<Clock> = entrants.iter().map(|_| Clock::default()).collect();
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < options.rounds || started.elapsed() < options.time {
        for (entrant, clock) in entrants.iter_mut().zip(&mut clocks) {
            clock.round(entrant, pixels, batches, batch, streams)?;
        }
        rounds += 1;
    }
    let images = streams.count() * batches * batch;
    Ok(Race { timings: clocks.iter().map(Clock::timing).collect(), rounds, images })
}

/// Measures `model` dense and pruned by `pruner`, `batch` images at a time.
///
/// # Errors
/// As [`race`].
pub(crate) fn speed_up<'a>(
    model: &'a CpuBackbone,
    pruner: &'a mut dyn Pruner,
    pixels: Pixels<'_>,
    batch: usize,
    options: SpeedOptions,
) -> Result<SpeedUp> {
    let mut entrants = [Entrant::dense(model), Entrant::pruned(model, [pruner])];
    let Race { timings, rounds, images } = race(&mut entrants, pixels, batch, &Streams::ONE, options)?;
    let (dense, pruned) = (timings[0].rate, timings[1].rate);
    Ok(SpeedUp { batch, dense, pruned, speed_up: pruned.images_per_s / dense.images_per_s, rounds, images })
}

/// One entrant's measurements.
#[derive(Default)]
struct Clock {
    /// Images/s of each round.
    rounds: Vec<f64>,
    /// Time of each batch, ms.
    batches: Vec<f64>,
    operations: [Duration; Operation::ALL.len()],
    scoring: Duration,
}

impl Clock {
    fn round(
        &mut self,
        entrant: &mut Entrant<'_>,
        pixels: Pixels<'_>,
        batches: usize,
        batch: usize,
        streams: &Streams,
    ) -> Result<()> {
        // Entrants may share a model, and so its profile.
        entrant.take_times();
        let lanes = entrant.lanes(streams.count());
        let started = Instant::now();
        let times = streams.run(lanes, |mut lane| {
            let mut times = Vec::with_capacity(batches);
            for at in 0..batches {
                let batch_started = Instant::now();
                lane.pass(pixels.batch(at, batch))?;
                times.push(1e3 * batch_started.elapsed().as_secs_f64());
            }
            Ok(times)
        })?;
        let images = streams.count() * batches * batch;
        self.rounds.push(images as f64 / started.elapsed().as_secs_f64());
        self.batches.extend(times.into_iter().flatten());
        let (operations, scoring) = entrant.take_times();
        self.operations.iter_mut().zip(operations).for_each(|(sum, time)| *sum += time);
        self.scoring += scoring;
        Ok(())
    }

    fn timing(&self) -> Timing {
        let quantile = |values: &[f64], p| Quantiles::of(values.to_vec()).map_or(f64::NAN, |q| q.at(p));
        let batches = self.batches.len() as f64;
        let mean_ms = |time: Duration| 1e3 * time.as_secs_f64() / batches;
        Timing {
            rate: Rate {
                images_per_s: quantile(&self.rounds, 0.5),
                p50_ms: quantile(&self.batches, 0.5),
                p90_ms: quantile(&self.batches, 0.9),
                p99_ms: quantile(&self.batches, 0.99),
            },
            batch_ms: self.batches.iter().sum::<f64>() / batches,
            operations_ms: self.operations.map(mean_ms),
            scoring_ms: mean_ms(self.scoring),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn streams_run_at_once_and_share_the_threads_out() {
        let pool = ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let streams = pool.install(|| Streams::new(2)).unwrap();
        // Each waits for what the other sends, which one after the other could not.
        let ((to_second, from_first), (to_first, from_second)) = (channel(), channel());
        let lanes = vec![(to_second, from_second), (to_first, from_first)];
        let threads = streams.run(lanes, |(send, receive)| {
            send.send(()).unwrap();
            receive.recv_timeout(Duration::from_secs(60)).expect("the other stream runs");
            Ok(rayon::current_num_threads())
        });
        assert_eq!(threads.unwrap(), [2, 3]);
        assert!(pool.install(|| Streams::new(6)).is_err(), "a thread each");
    }

    #[test]
    fn one_stream_stays_on_the_callers_threads() {
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let threads = pool.install(|| Streams::ONE.run(vec![()], |()| Ok(rayon::current_num_threads())));
        assert_eq!(threads.unwrap(), [3]);
    }
}
