//! What REST and gRPC share: from images to answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::decode::Decoder;
use crate::engine::{Ask, Input, SharedEngine};
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::points::Limits;
use crate::refusal::Refusal;
use crate::repository::Repository;
use crate::scheduler::{Choice, Dropped, Place, Reply, Scheduler, Served, Total, Waiting, past_deadline};
use crate::settings::Config;
use crate::spans;

/// The server's state, which all connections share.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The models.
    pub repository: Repository,
    /// The queues and the streams.
    pub scheduler: Arc<Scheduler>,
    /// The threads that decode.
    pub decoder: Decoder,
    /// What `/metrics` tells.
    pub metrics: Metrics,
    /// BLAKE3 of the bearer token.
    pub token: Option<blake3::Hash>,
    /// Room for bodies that are being received, KiB.
    pub receiving: Semaphore,
    phase: AtomicU8,
    /// Told when readiness may have changed.
    changed: watch::Sender<()>,
}

/// What the server does with new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes them.
    Serving,
    /// It takes them, and says that it is not ready, so that no more are sent.
    Draining,
    /// It accepts no connections, and answers what comes in on those that are open before it closes them.
    Ending,
}

/// An image of a request.
pub enum Given {
    /// An encoded image, and its name in errors.
    Encoded(String, Bytes),
    /// Normalised pixels, `[3, H, W]`.
    Pixels(Vec<f32>),
}

/// A request for answers.
pub struct Request {
    /// The index of the model.
    pub model: usize,
    /// Its engine.
    pub engine: SharedEngine,
    /// The images.
    pub images: Vec<Given>,
    /// What is asked of each.
    pub ask: Ask,
    /// The loss and the cost that are allowed.
    pub limits: Limits,
    /// When the answer is of no use any more.
    pub deadline: Instant,
}

impl App {
    /// A server that takes requests.
    pub fn new(
        config: Config,
        repository: Repository,
        scheduler: Arc<Scheduler>,
        decoder: Decoder,
        metrics: Metrics,
    ) -> Self {
        let token = config.token.as_ref().map(|token| blake3::hash(token.as_bytes()));
        let phase = AtomicU8::new(Phase::Serving as u8);
        let receiving = Semaphore::new((config.max_receiving >> 10).clamp(1, Semaphore::MAX_PERMITS));
        let changed = watch::Sender::new(());
        App { config, repository, scheduler, decoder, metrics, token, receiving, phase, changed }
    }

    /// What the server does with new requests.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Serving as u8 => Phase::Serving,
            phase if phase == Phase::Draining as u8 => Phase::Draining,
            _ => Phase::Ending,
        }
    }

    /// Begins `phase`.
    pub fn begin(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// Is told when readiness may have changed.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Loads the model at `index`, or loads it again, on the caller's thread.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub fn load(&self, index: usize) -> Result<(), ServeError> {
        let loaded = self.repository.load(index, &self.scheduler);
        self.changed.send_replace(());
        loaded
    }

    /// Loads the model called `name` again, on a thread that may block.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], or [`Refusal::Invalid`] if it cannot be loaded: what served before still serves.
    pub async fn reload(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        let index = self.repository.find(Some(name))?;
        let app = Arc::clone(self);
        let loaded = tokio::task::spawn_blocking(move || app.load(index)).await;
        let loaded =
            loaded.map_err(|_| Refusal::Internal("a bug in vitrim while a model was loaded".into()))?;
        loaded.map_err(|error| Refusal::Invalid(error.to_string()))
    }

    /// Takes the model called `name` out of service.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn unload(&self, name: &str) -> Result<(), Refusal> {
        self.repository.unload(self.repository.find(Some(name))?);
        self.changed.send_replace(());
        Ok(())
    }

    /// Whether requests should be sent here.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving && self.repository.is_ready()
    }

    /// Whether an `Authorization` header's `value` has the token. The time does not depend on the token: hashes are
    /// compared, and in constant time.
    pub fn is_authorised(&self, value: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else { return true };
        let given = value.and_then(|value| {
            let (scheme, token) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
        });
        blake3::hash(given.unwrap_or_default()) == *token
    }

    /// The deadline of a request that arrived at `arrived` and allows `timeout`, if it says so.
    pub fn deadline(&self, arrived: Instant, timeout: Option<Duration>) -> Instant {
        // Far beyond any sensible timeout, and within what an instant can hold.
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        arrived + timeout.unwrap_or(self.config.timeout).min(LONGEST)
    }

    /// Refuses a request for the model at `index` at once if it could not be served now: before its body is read.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] while the model loads, [`Refusal::Busy`] if the queue is full.
    pub fn check(&self, index: usize) -> Result<SharedEngine, Refusal> {
        let engine = self.repository.engine(index)?;
        if self.scheduler.is_full(index) {
            // Counts it as refused, unless there is room by now.
            drop(self.scheduler.admit(index, 1)?);
        }
        Ok(engine)
    }

    /// Answers `request`. Dropping the future cancels what has not started.
    ///
    /// # Errors
    /// If an image is refused, there is no room, or the deadline passes: then no image is answered.
    pub async fn answer(&self, request: Request) -> Result<Vec<Served>, Refusal> {
        let Request { model, engine, images, ask, limits, deadline } = request;
        if images.is_empty() {
            return Err(Refusal::Invalid("no images in the request; send at least one".into()));
        }
        if images.len() > self.config.max_images {
            return Err(Refusal::TooLarge(format!(
                "{} images in one request, and this server takes up to {} (--max-images); send fewer at once",
                images.len(),
                self.config.max_images
            )));
        }
        let spec = engine.spec();
        if ask.logits && spec.num_classes == 0 {
            return Err(Refusal::Invalid("the model has no classes; ask for features".into()));
        }
        let choice = match engine.ladder.bound(limits)? {
            None => Choice::Server,
            Some(point) if limits.gmacs.is_none() && engine.elastic => Choice::NoCheaperThan(point),
            Some(point) => Choice::Exactly(point),
        };
        let places = self.scheduler.admit(model, images.len())?;
        let mut answers = Vec::with_capacity(images.len());
        for (given, place) in images.into_iter().zip(places) {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            let job = Job { engine: engine.clone(), ask, choice, deadline, place, reply };
            match given {
                Given::Pixels(values) => job.queue(Input::Pixels(values), Duration::ZERO),
                Given::Encoded(name, bytes) => self.decode(job, name, bytes),
            }
        }
        let all = async {
            let mut served = Vec::with_capacity(answers.len());
            for answer in answers {
                let lost = || Refusal::Unavailable("the server ended before the image was computed".into());
                served.push(answer.await.map_err(|_| lost())??);
            }
            Ok(served)
        };
        let served =
            tokio::time::timeout_at(deadline.into(), all).await.unwrap_or_else(|_| Err(past_deadline()))?;
        spans::answered(&self.repository.slots()[model].name, &engine, &Total::of(&served));
        Ok(served)
    }

    /// Decodes an image on a thread of the pool, and queues it.
    fn decode(&self, job: Job, name: String, bytes: Bytes) {
        let (decoder, decoded, seconds) =
            (self.decoder.clone(), self.metrics.decoded.clone(), self.metrics.decode_seconds.clone());
        self.decoder.spawn(move || {
            let started = Instant::now();
            if job.reply.is_closed() {
                job.place.drop_counted(Dropped { abandoned: 1, late: 0 });
                return;
            }
            if job.deadline <= started {
                job.place.drop_counted(Dropped { abandoned: 0, late: 1 });
                // Whoever gave up a moment ago is not told.
                let _ = job.reply.send(Err(past_deadline()));
                return;
            }
            match decoder.crop(&bytes, &name, &job.engine.loaded.transform) {
                Ok(crop) => {
                    drop(bytes);
                    let took = started.elapsed();
                    decoded.increment(1);
                    seconds.record(took.as_secs_f64());
                    job.queue(Input::Crop(crop), took);
                }
                Err(refusal) => {
                    let _ = job.reply.send(Err(refusal));
                }
            }
        });
    }
}

/// An admitted image, before it is queued.
struct Job {
    engine: SharedEngine,
    ask: Ask,
    choice: Choice,
    deadline: Instant,
    place: Place,
    reply: Reply,
}

impl Job {
    fn queue(self, input: Input, decode: Duration) {
        let Job { engine, ask, choice, deadline, place, reply } = self;
        let since = Instant::now();
        place.fill(Waiting { engine, input, ask, choice, deadline, decode, since, reply });
    }
}
