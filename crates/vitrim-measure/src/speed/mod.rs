//! Images per second of several models, measured in alternation.
//!
//! Rounds alternate between the models over the same pixels in memory, so that other load on the machine affects all
//! of them alike; medians over the rounds are reported.

pub mod bench;
pub(crate) mod bench_images;
pub(crate) mod budgets;
pub mod machine;
pub(crate) mod peak_memory;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vitrim_prune::{ImageKey, Pruner, run_to_answer};
use vitrim_vit::{
    Backbone, CpuBackbone, Operation, PixelBatch, Reduction, SessionOptions, Site, Taps, Threads, View,
    VitSpec, Want,
};

use crate::error::{MeasureError, Result};
use crate::statistics::Quantiles;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpeedOptions {
    /// Smallest number of rounds.
    pub rounds: usize,
    /// Time for the measurement, warm-up excluded: more rounds if the models are fast, fewer images per round if they
    /// are slow.
    pub time: Duration,
    /// Largest number of batches per round.
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
    /// Images per batch.
    pub batch: usize,
    /// The dense model.
    pub dense: Rate,
    /// The pruned model, the pruner's own time included.
    pub pruned: Rate,
    /// Pruned over dense images/s.
    pub speed_up: f64,
    /// Rounds measured.
    pub rounds: usize,
    /// Images per round.
    pub images: usize,
}

/// Images in memory.
#[derive(Clone, Copy)]
pub(crate) struct Pixels<'a> {
    /// Pixels, one image after the other, each `[3, H, W]`.
    pub data: &'a [f32],
    /// Height and width of each image, `[N]`, pixels.
    pub sizes: &'a [[usize; 2]],
    /// Keys of the images, `[N]`.
    pub keys: &'a [ImageKey],
}

impl<'a> Pixels<'a> {
    /// Images `at * size .. (at + 1) * size`.
    fn batch(&self, at: usize, size: usize) -> (PixelBatch<'a>, &'a [ImageKey]) {
        self.part(at * size..(at + 1) * size)
    }

    /// The images at `places`.
    pub fn part(&self, places: Range<usize>) -> (PixelBatch<'a>, &'a [ImageKey]) {
        let values = |sizes: &[[usize; 2]]| sizes.iter().map(|[height, width]| 3 * height * width).sum();
        let (first, sizes): (usize, _) = (values(&self.sizes[..places.start]), &self.sizes[places.clone()]);
        let data = &self.data[first..first + values(sizes)];
        (PixelBatch::of_sizes(data, sizes), &self.keys[places])
    }
}

/// Batches in flight at once, each on its own threads, as in a service that answers several requests. Throughput is
/// higher than with all threads on one batch at a time, because batches need no synchronisation; each batch takes
/// longer.
pub(crate) struct Streams {
    /// Threads of each stream; empty if batches run one after another on the caller's threads.
    threads: Vec<Threads>,
}

impl Streams {
    /// One batch after the other, on the caller's threads.
    pub const ONE: Streams = Streams { threads: Vec::new() };

    /// `count` streams, between which the caller's number of threads is divided.
    ///
    /// # Errors
    /// If there are fewer threads than streams, or the threads cannot be started.
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
        let own = |i: usize| Threads::pool((i + 1) * threads / count - i * threads / count);
        Ok(Streams { threads: (0..count).map(own).collect::<Result<_, _>>()? })
    }

    /// Number of streams.
    pub fn count(&self) -> usize {
        self.threads.len().max(1)
    }

    /// A session of `model` for each stream.
    pub fn sessions(&self, model: &CpuBackbone) -> Vec<CpuBackbone> {
        if self.threads.is_empty() {
            return vec![model.session(SessionOptions::default())];
        }
        let session = |threads: &Threads| {
            model.session(SessionOptions { threads: threads.clone(), ..SessionOptions::default() })
        };
        self.threads.iter().map(session).collect()
    }
}

/// A model to be measured, dense or pruned.
pub(crate) struct Entrant<'a> {
    /// One session for each stream. Entrants may share sessions, and so their profiles.
    sessions: &'a [CpuBackbone],
    /// None for a dense model.
    pruner: Option<Timed<'a>>,
}

impl<'a> Entrant<'a> {
    /// The model of `sessions`, one for each stream, without pruning.
    pub fn dense(sessions: &'a [CpuBackbone]) -> Self {
        Entrant { sessions, pruner: None }
    }

    /// The model of `sessions`, one for each stream, pruned by `pruner`.
    pub fn pruned(sessions: &'a [CpuBackbone], pruner: &'a dyn Pruner) -> Self {
        Entrant { sessions, pruner: Some(Timed { pruner, nanoseconds: AtomicU64::new(0) }) }
    }

    /// Calls `work` with all sessions at the same time.
    fn on_streams<T: Send>(&self, work: impl Fn(&CpuBackbone) -> Result<T> + Sync) -> Result<Vec<T>> {
        if let [session] = self.sessions {
            return Ok(vec![work(session)?]);
        }
        let work = &work;
        thread::scope(|scope| {
            let streams: Vec<_> =
                self.sessions.iter().map(|session| scope.spawn(move || work(session))).collect();
            streams.into_iter().map(|stream| stream.join().expect("no stream panics")).collect()
        })
    }

    fn pass(&self, session: &CpuBackbone, (pixels, keys): (PixelBatch<'_>, &[ImageKey])) -> Result<()> {
        let want = Want::answer(session.spec());
        let Some(pruner) = &self.pruner else {
            session.dense(pixels, want)?;
            return Ok(());
        };
        session.enter(|| {
            let mut state = session.embed(pixels)?;
            run_to_answer(session, pruner, &mut state, keys)?;
            session.finish(&state, want)?;
            Ok(())
        })
    }

    /// The time of each operation, and of scoring, since the last call.
    fn take_times(&self) -> ([Duration; Operation::ALL.len()], Duration) {
        let mut operations = [Duration::ZERO; Operation::ALL.len()];
        for session in self.sessions {
            operations.iter_mut().zip(session.profile().take()).for_each(|(sum, time)| *sum += time);
        }
        let scoring = self.pruner.as_ref().map_or(0, |pruner| pruner.nanoseconds.swap(0, Relaxed));
        (operations, Duration::from_nanos(scoring))
    }
}

/// A pruner whose own time is measured.
struct Timed<'a> {
    pruner: &'a dyn Pruner,
    /// Time of all streams.
    nanoseconds: AtomicU64,
}

impl Pruner for Timed<'_> {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        self.pruner.sites(spec)
    }

    fn decide(&self, stage: usize, view: &View<'_>, keys: &[ImageKey]) -> vitrim_prune::Result<Reduction> {
        let started = Instant::now();
        let reduction = self.pruner.decide(stage, view, keys);
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
        reduction
    }

    fn macs(&self, stage: usize, tokens: usize) -> u64 {
        self.pruner.macs(stage, tokens)
    }
}

/// The timing of an entrant.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Its speed.
    pub rate: Rate,
    /// Mean time of a batch, ms.
    pub batch_ms: f64,
    /// The part of `batch_ms` for each of [`Operation::ALL`], ms.
    pub operations_ms: [f64; Operation::ALL.len()],
    /// The part of `batch_ms` for the pruner's decisions, ms.
    pub scoring_ms: f64,
}

impl Timing {
    /// The part of `batch_ms` that belongs neither to an operation nor to the pruner, ms.
    pub fn rest_ms(&self) -> f64 {
        self.batch_ms - self.scoring_ms - self.operations_ms.iter().sum::<f64>()
    }

    /// Share of the time for decisions and compaction: the overhead of pruning.
    pub fn overhead(&self) -> f64 {
        (self.scoring_ms + self.operations_ms[Operation::Compaction as usize]) / self.batch_ms
    }
}

/// The timings of all entrants.
#[derive(Clone, Debug)]
pub(crate) struct Race {
    /// Timings, one per entrant, in the order given.
    pub timings: Vec<Timing>,
    /// Rounds measured.
    pub rounds: usize,
    /// Images per round.
    pub images: usize,
}

/// Measures `entrants`, with `batch` images at a time on each stream; there are as many streams as each entrant has
/// sessions.
///
/// # Errors
/// If there are fewer images than a batch, or a model returns an error.
pub(crate) fn race(
    entrants: &[Entrant<'_>],
    pixels: Pixels<'_>,
    batch: usize,
    options: SpeedOptions,
) -> Result<Race> {
    let available = pixels.keys.len().checked_div(batch).unwrap_or(0).min(options.batches);
    if available == 0 {
        let images = pixels.keys.len();
        return Err(MeasureError::Setting(format!("{images} images are too few for a batch of {batch}")));
    }
    // Warm-up, which also gives the number of batches that fit into the time.
    let started = Instant::now();
    let mut warm = 0;
    while warm < 2 || (started.elapsed() < options.time / 10 && warm < available) {
        for entrant in entrants {
            entrant.on_streams(|session| entrant.pass(session, pixels.batch(warm % available, batch)))?;
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
        for (entrant, clock) in entrants.iter().zip(&mut clocks) {
            clock.round(entrant, pixels, batches, batch)?;
        }
        rounds += 1;
    }
    let streams = entrants.first().map_or(1, |entrant| entrant.sessions.len());
    let images = streams * batches * batch;
    Ok(Race { timings: clocks.iter().map(Clock::timing).collect(), rounds, images })
}

/// Measures `model` dense and pruned by `pruner`, `batch` images at a time.
///
/// # Errors
/// As [`race`].
pub(crate) fn speed_up(
    model: &CpuBackbone,
    pruner: &dyn Pruner,
    pixels: Pixels<'_>,
    batch: usize,
    options: SpeedOptions,
) -> Result<SpeedUp> {
    let sessions = Streams::ONE.sessions(model);
    let entrants = [Entrant::dense(&sessions), Entrant::pruned(&sessions, pruner)];
    let Race { timings, rounds, images } = race(&entrants, pixels, batch, options)?;
    let (dense, pruned) = (timings[0].rate, timings[1].rate);
    Ok(SpeedUp { batch, dense, pruned, speed_up: pruned.images_per_s / dense.images_per_s, rounds, images })
}

/// Measurements of one entrant.
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
        entrant: &Entrant<'_>,
        pixels: Pixels<'_>,
        batches: usize,
        batch: usize,
    ) -> Result<()> {
        // Discards the times of another entrant on the same sessions.
        entrant.take_times();
        let started = Instant::now();
        let times = entrant.on_streams(|session| {
            let mut times = Vec::with_capacity(batches);
            for at in 0..batches {
                let batch_started = Instant::now();
                entrant.pass(session, pixels.batch(at, batch))?;
                times.push(1e3 * batch_started.elapsed().as_secs_f64());
            }
            Ok(times)
        })?;
        let images = entrant.sessions.len() * batches * batch;
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
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use rayon::ThreadPoolBuilder;
    use vitrim_vit::Tensors;

    use super::*;

    fn model() -> CpuBackbone {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
        (spec.dim, spec.depth) = (24, 1);
        (spec.attention.heads, spec.mlp.hidden) = (3, 48);
        CpuBackbone::new(&spec, &Tensors::random(&spec, 1)).unwrap()
    }

    #[test]
    fn streams_run_at_once_and_share_the_threads_out() {
        let pool = ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let sessions = pool.install(|| Streams::new(2)).unwrap().sessions(&model());
        // Each waits for a message of the other, which would block forever if they ran one after the other.
        let ((to_second, from_first), (to_first, from_second)) = (channel(), channel());
        let ends = Mutex::new(vec![(to_second, from_second), (to_first, from_first)]);
        let threads = Entrant::dense(&sessions).on_streams(|session| {
            let (send, receive) = ends.lock().unwrap().pop().expect("an end for each");
            send.send(()).unwrap();
            receive.recv_timeout(Duration::from_secs(60)).expect("the other stream runs");
            Ok(session.enter(rayon::current_num_threads))
        });
        assert_eq!(threads.unwrap(), [2, 3]);
        assert!(pool.install(|| Streams::new(6)).is_err(), "a thread each");
    }

    #[test]
    fn one_stream_stays_on_the_callers_threads() {
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let sessions = Streams::ONE.sessions(&model());
        let entrant = Entrant::dense(&sessions);
        let threads =
            pool.install(|| entrant.on_streams(|session| Ok(session.enter(rayon::current_num_threads))));
        assert_eq!(threads.unwrap(), [3]);
    }
}
