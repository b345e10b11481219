//! The scheduler: streams that take batches from the queues of all models.
//!
//! There is one queue for each model, bounded in images, and one stream for each core. A stream that becomes free takes
//! what waits, divided among the free streams and cut by a budget of expected MACs; the images of one request may go in
//! different batches. Batches are packed, so that nothing is padded, sorted or held back to fill one up. While no stream
//! computes and fewer images wait than there are cores, one batch has all cores to itself.
//!
//! A stream without work sleeps. Threads of a pass on all cores may spin while one of them takes a short step, for at
//! most the bound in [`SessionOptions::spin`](vitrim_vit::SessionOptions).

mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use queue::{Batch, Choice, Dropped, Reply, Served, Sliding, Total, Waiting, past_deadline};

use crate::engine::{Ask, Cores, Input, Lane, Outcome};
use crate::metrics::ModelMetrics;
use crate::refusal::Refusal;
use queue::Queue;

/// Sizes of the queues and of batches.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Admitted images of one model that have not started.
    pub queue: usize,
    /// Expected cost of a batch on one stream, 1e9 MACs; `None`: that of [`BATCH_IMAGES`] dense ones.
    pub batch_gmacs: Option<f64>,
    /// Streams that compute at the same time.
    pub streams: usize,
}

/// Dense images whose cost a batch may have. Larger batches gain nothing on one core, where the weights stay in its cache
/// while a chunk of rows passes, and answer later: an image waits for the others of its batch.
pub const BATCH_IMAGES: usize = 2;

impl Sizes {
    /// The budget of a batch of a model whose dense image costs `dense` 1e9 MACs.
    pub fn budget(&self, dense: f64) -> f64 {
        self.batch_gmacs.unwrap_or(BATCH_IMAGES as f64 * dense)
    }

    /// The time after which all that the `queues` hold has started, as fast as the last batches were.
    fn wait(&self, queues: &[Queue]) -> Duration {
        let work: f64 = queues.iter().map(Queue::work).sum();
        Duration::try_from_secs_f64(work / self.streams.max(1) as f64).unwrap_or(Duration::MAX)
    }
}

/// Queues and streams.
pub struct Scheduler {
    shared: Arc<Shared>,
    streams: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    /// There may be work for a stream.
    work: Condvar,
    sizes: Sizes,
    cores: Cores,
    metrics: Vec<ModelMetrics>,
    started: Instant,
}

struct State {
    /// One for each model.
    queues: Vec<Queue>,
    /// Batches that run on one stream each.
    running: usize,
    /// Whether a batch runs on all cores.
    wide: bool,
    ended: bool,
}

impl Scheduler {
    /// Starts the streams for as many models as there are `metrics`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(sizes: Sizes, cores: Cores, metrics: Vec<ModelMetrics>) -> std::io::Result<Self> {
        let state = State {
            queues: metrics.iter().map(|_| Queue::default()).collect(),
            running: 0,
            wide: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            sizes,
            cores,
            metrics,
            started: Instant::now(),
        });
        let stream = |stream: usize| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("vitrim-stream-{stream}"));
            thread.spawn(move || shared.stream(stream))
        };
        let streams = (0..sizes.streams).map(stream).collect::<std::io::Result<_>>()?;
        Ok(Scheduler { shared, streams: Mutex::new(streams) })
    }

    /// The threads that compute.
    pub fn cores(&self) -> &Cores {
        &self.shared.cores
    }

    /// Sizes of the queues and of batches.
    pub fn sizes(&self) -> &Sizes {
        &self.shared.sizes
    }

    /// Sets the controller of `model`; `None`: it does not slide.
    pub fn control(&self, model: usize, sliding: Option<Sliding>) {
        self.shared.state().queues[model].sliding = sliding;
    }

    /// Lets the controllers see the time pass: while nothing arrives, they step back. To be called about every second.
    pub fn tick(&self) {
        let (mut state, now) = (self.shared.state(), self.shared.seconds(Instant::now()));
        for (queue, metrics) in state.queues.iter_mut().zip(&self.shared.metrics) {
            let waiting = queue.len();
            if let Some(sliding) = &mut queue.sliding {
                sliding.choose(now, waiting, 0.0, metrics);
            }
        }
    }

    /// Takes places for `images` images in the queue of `model`.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if there are not as many; [`Refusal::TooLarge`] if there never are.
    pub fn admit(self: &Arc<Self>, model: usize, images: usize) -> Result<Vec<Place>, Refusal> {
        let (capacity, now) = (self.shared.sizes.queue, Instant::now());
        if images > capacity {
            return Err(Refusal::TooLarge(format!(
                "{images} images in one request, and the queue holds {capacity}; send fewer at once"
            )));
        }
        let mut state = self.shared.state();
        let queue = &mut state.queues[model];
        if let Some(sliding) = &mut queue.sliding {
            sliding.controller.arrived(self.shared.seconds(now), images);
        }
        if !queue.hold(images, capacity) {
            self.shared.metrics[model].dropped(queue.purge(now));
            if !queue.hold(images, capacity) {
                let held = queue.held();
                let wait = self.shared.sizes.wait(&state.queues);
                drop(state);
                let metrics = &self.shared.metrics[model];
                metrics.refused.increment(images as u64);
                let line = format!(
                    "the queue holds {held} of {capacity} images, no room for {images} more; try again later, or elsewhere"
                );
                return Err(Refusal::Busy(line, wait));
            }
        }
        self.shared.metrics[model].queue.set(queue.held() as f64);
        drop(state);
        let place = |_| Place { scheduler: Arc::clone(self), model, given_back: true };
        Ok((0..images).map(place).collect())
    }

    /// Whether the queue of `model` has no place: a request may be refused before its body is read.
    pub fn is_full(&self, model: usize) -> bool {
        self.shared.state().queues[model].held() >= self.shared.sizes.queue
    }

    /// Images of all models that were admitted and have not started, and batches that run.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.state();
        let held = state.queues.iter().map(Queue::held).sum();
        (held, state.running + usize::from(state.wide))
    }

    /// Ends the streams, after the batches that run. What waits is dropped.
    pub fn end(&self) {
        self.shared.state().ended = true;
        self.shared.work.notify_all();
        let streams = std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in streams {
            // A stream does not panic: its passes are caught.
            let _ = stream.join();
        }
    }
}

/// A place for one image in a queue. Dropped without an image, it is given back.
pub struct Place {
    scheduler: Arc<Scheduler>,
    model: usize,
    given_back: bool,
}

impl Place {
    /// Gives the place back for an image that was `dropped` before it was queued.
    pub fn drop_counted(self, dropped: Dropped) {
        self.scheduler.shared.metrics[self.model].dropped(dropped);
    }

    /// Puts `image` into the queue.
    pub fn fill(mut self, image: Waiting) {
        self.given_back = false;
        let shared = &self.scheduler.shared;
        shared.state().queues[self.model].push(image);
        shared.work.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.given_back {
            let shared = &self.scheduler.shared;
            let mut state = shared.state();
            state.queues[self.model].release(1);
            let held = state.queues[self.model].held();
            shared.metrics[self.model].queue.set(held as f64);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is called with the lock held panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the start, the controllers' clock.
    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.started).as_secs_f64()
    }

    /// The life of a stream: takes a batch, runs it, answers.
    fn stream(&self, stream: usize) {
        loop {
            let mut state = self.state();
            let (model, batch, wide) = loop {
                if state.ended {
                    return;
                }
                match self.next(&mut state) {
                    Some(work) => break work,
                    None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            match wide {
                true => state.wide = true,
                false => state.running += 1,
            }
            drop(state);
            let lane = if wide { Lane::Wide } else { Lane::Narrow(stream) };
            let images = batch.images.len();
            let computed = self.run(model, batch, lane);
            let mut state = self.state();
            match wide {
                true => state.wide = false,
                false => state.running -= 1,
            }
            if let (Some((gmacs, seconds)), false) = (computed, wide) {
                state.queues[model].computed(images, gmacs, seconds);
            }
            let more = state.queues.iter().any(|queue| queue.len() > 0);
            drop(state);
            if more {
                self.work.notify_all();
            }
        }
    }

    /// The next batch, its model, and whether it has all cores.
    fn next(&self, state: &mut State) -> Option<(usize, Batch, bool)> {
        if state.wide {
            return None;
        }
        let now = Instant::now();
        let oldest = |queues: &[Queue]| {
            let heads = queues.iter().enumerate().filter_map(|(model, queue)| Some((queue.oldest()?, model)));
            heads.min().map(|(_, model)| model)
        };
        // The model whose first image waits longest, if anything is left of its queue.
        let model = loop {
            let model = oldest(&state.queues)?;
            self.metrics[model].dropped(state.queues[model].purge(now));
            self.metrics[model].queue.set(state.queues[model].held() as f64);
            if state.queues[model].len() > 0 {
                break model;
            }
        };
        let total: usize = state.queues.iter().map(Queue::len).sum();
        let waiting = state.queues[model].len();
        let work = |(other, queue): (usize, &Queue)| match &queue.sliding {
            Some(sliding) if other != model => sliding.controller.work(queue.len()),
            _ => 0.0,
        };
        let others: f64 = state.queues.iter().enumerate().map(work).sum();
        let queue = &mut state.queues[model];
        let mut limit = f64::INFINITY;
        if let Some(sliding) = &mut queue.sliding {
            sliding.choose(self.seconds(now), waiting, others, &self.metrics[model]);
            limit = sliding.controller.batch_gmacs();
        }
        let free = self.sizes.streams - state.running;
        let wide = state.running == 0 && total < self.sizes.streams;
        let most = if wide { waiting } else { waiting.div_ceil(free.max(1)) };
        let dense = queue.first_dense_gmacs()?;
        let budget = self.sizes.budget(dense).min(limit);
        let batch = queue.cut(most, budget)?;
        self.metrics[model].queue.set(queue.held() as f64);
        Some((model, batch, wide))
    }

    /// Runs `batch` and answers each image. Returns its 1e9 MACs and seconds.
    fn run(&self, model: usize, batch: Batch, lane: Lane) -> Option<(f64, f64)> {
        let Batch { engine, point, images } = batch;
        let started = Instant::now();
        let asked: Vec<(&Input, Ask)> = images.iter().map(|image| (&image.input, image.ask)).collect();
        let ran = catch_unwind(AssertUnwindSafe(|| engine.run(lane, point, &asked)));
        drop(asked);
        let compute = started.elapsed();
        let metrics = &self.metrics[model];
        let outcomes = match ran {
            Ok(Ok(outcomes)) => outcomes,
            // One image must not take the others with it.
            _ if images.len() > 1 => {
                for image in images {
                    self.run(model, Batch { engine: Arc::clone(&engine), point, images: vec![image] }, lane);
                }
                return None;
            }
            Ok(Err(error)) => return failed(images, &format!("the model failed: {error}")),
            Err(_) => return failed(images, "a bug in vitrim; the server's log has its place"),
        };
        let gmacs = outcomes.iter().map(|outcome: &Outcome| outcome.macs as f64 / 1e9).sum::<f64>();
        let count = images.len();
        metrics.batch(count, gmacs, compute);
        tracing::debug!(
            model,
            point,
            ?lane,
            images = count,
            gmacs,
            ms = 1e3 * compute.as_secs_f64(),
            "batch"
        );
        metrics.served(&engine.ladder.points[point], count);
        for (image, outcome) in images.into_iter().zip(outcomes) {
            let queue = started.saturating_duration_since(image.since);
            metrics.queue_seconds.record(queue.as_secs_f64());
            let served = Served { outcome, point, decode: image.decode, queue, compute, batch: count };
            // The client may have gone while its image was computed.
            let _ = image.reply.send(Ok(served));
        }
        Some((gmacs, compute.as_secs_f64()))
    }
}

/// Answers that `images` failed.
fn failed(images: Vec<Waiting>, line: &str) -> Option<(f64, f64)> {
    tracing::error!("{line}");
    for image in images {
        let _ = image.reply.send(Err(Refusal::Internal(line.to_owned())));
    }
    None
}
