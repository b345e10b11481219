//! The queue of one model: bounded in images, and cut into batches by their expected cost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::elastic::Elastic;
use crate::engine::{Ask, Input, Outcome, SharedEngine};
use crate::metrics::ModelMetrics;
use crate::points::OperatingPoint;
use crate::refusal::Refusal;

/// Which operating point an image may be served at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The server's.
    Server,
    /// The server's, but none cheaper than this.
    NoCheaperThan(usize),
    /// This one.
    Exactly(usize),
}

/// The answer for an image, and what it took.
#[derive(Clone, Debug)]
pub struct Served {
    /// The model's answer.
    pub outcome: Outcome,
    /// The operating point that served it.
    pub point: usize,
    /// Time of decoding and resizing.
    pub decode: Duration,
    /// Time between decoding and computing.
    pub queue: Duration,
    /// Time of the batch.
    pub compute: Duration,
    /// Images in the batch.
    pub batch: usize,
}

/// What the images of one request took together.
pub struct Total {
    /// The cheapest operating point of them.
    pub point: usize,
    /// MACs of all, 1e9.
    pub gmacs: f64,
    /// The longest time of decoding and resizing.
    pub decode: Duration,
    /// The longest time between decoding and computing.
    pub queue: Duration,
    /// The longest time of a batch.
    pub compute: Duration,
}

impl Total {
    /// That of `served`.
    pub fn of(served: &[Served]) -> Self {
        let longest = |time: fn(&Served) -> Duration| served.iter().map(time).max().unwrap_or_default();
        Total {
            point: served.iter().map(|image| image.point).max().unwrap_or(0),
            gmacs: served.iter().map(|image| image.outcome.macs as f64 / 1e9).sum(),
            decode: longest(|image| image.decode),
            queue: longest(|image| image.queue),
            compute: longest(|image| image.compute),
        }
    }
}

/// Where the answer goes; it is closed when nobody waits for it any more.
pub type Reply = oneshot::Sender<Result<Served, Refusal>>;

/// An image that waits for a stream.
pub struct Waiting {
    /// The model.
    pub engine: SharedEngine,
    /// The image.
    pub input: Input,
    /// What is asked of it.
    pub ask: Ask,
    /// Which operating point.
    pub choice: Choice,
    /// When it need not be started any more.
    pub deadline: Instant,
    /// Time of decoding and resizing.
    pub decode: Duration,
    /// When it joined the queue.
    pub since: Instant,
    /// Where the answer goes.
    pub reply: Reply,
}

/// A batch of images at one operating point.
pub struct Batch {
    /// The model.
    pub engine: SharedEngine,
    /// The operating point.
    pub point: usize,
    /// The images.
    pub images: Vec<Waiting>,
}

/// Images that were dropped before they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their deadline had passed.
    pub late: usize,
    /// Nobody waited for them any more.
    pub abandoned: usize,
}

/// Weight of the last batch in the average of the seconds per image.
const RECENT: f64 = 0.1;

/// The queue of one model.
#[derive(Default)]
pub struct Queue {
    /// Images that were admitted and have not started: those that are decoded, and those that wait.
    held: usize,
    waiting: VecDeque<Waiting>,
    /// Seconds that an image took of one core, averaged over the last batches; 0 before the first.
    seconds_per_image: f64,
    /// The controller, if the server slides.
    pub sliding: Option<Sliding>,
}

/// The controller of a model whose server slides, and the points that it slides among.
pub struct Sliding {
    /// The controller.
    pub controller: Elastic,
    /// The points, mildest first.
    pub points: Vec<OperatingPoint>,
}

impl Sliding {
    /// Chooses the point for what starts at time `now` ([`Elastic::choose`]), and tells `metrics` of a change.
    pub fn choose(&mut self, now: f64, waiting: usize, others: f64, metrics: &ModelMetrics) {
        let before = self.controller.level();
        let level = self.controller.choose(now, waiting, others);
        if level != before {
            metrics.moved(before, level);
            metrics.at(level, &self.points[level]);
        }
    }
}

impl Queue {
    /// Admitted images that have not started.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Core-seconds that the held images will take.
    pub fn work(&self) -> f64 {
        self.held as f64 * self.seconds_per_image
    }

    /// A batch of `images` with `gmacs` 1e9 MACs took `seconds` of one core.
    pub fn computed(&mut self, images: usize, gmacs: f64, seconds: f64) {
        let last = seconds / images as f64;
        self.seconds_per_image = match self.seconds_per_image {
            0.0 => last,
            mean => mean + RECENT * (last - mean),
        };
        if let Some(sliding) = &mut self.sliding {
            sliding.controller.computed(gmacs, seconds);
        }
    }

    /// Images that wait for a stream.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the image that waits longest joined.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|image| image.since)
    }

    /// The cost of a dense image of the model of the image that waits longest, 1e9 MACs.
    pub fn first_dense_gmacs(&self) -> Option<f64> {
        self.waiting.front().map(|image| image.engine.ladder.points[0].gmacs)
    }

    /// Takes `images` places of `capacity`; `false` if there are not as many.
    pub fn hold(&mut self, images: usize, capacity: usize) -> bool {
        let free = capacity.saturating_sub(self.held);
        if images <= free {
            self.held += images;
        }
        images <= free
    }

    /// Gives back the places of images that will not start.
    pub fn release(&mut self, images: usize) {
        self.held -= images;
    }

    /// Adds an image, which holds a place.
    pub fn push(&mut self, image: Waiting) {
        self.waiting.push_back(image);
    }

    /// Drops images whose deadline has passed, or for which nobody waits any more.
    pub fn purge(&mut self, now: Instant) -> Dropped {
        let mut dropped = Dropped::default();
        let before = self.waiting.len();
        let mut late = Vec::new();
        let mut kept = VecDeque::with_capacity(before);
        for image in self.waiting.drain(..) {
            if image.reply.is_closed() {
                dropped.abandoned += 1;
            } else if image.deadline <= now {
                dropped.late += 1;
                late.push(image.reply);
            } else {
                kept.push_back(image);
            }
        }
        self.waiting = kept;
        self.held -= before - self.waiting.len();
        for reply in late {
            // Whoever gave up a moment ago is not told.
            let _ = reply.send(Err(past_deadline()));
        }
        dropped
    }

    /// Takes the next batch of at most `most` images and `budget` 1e9 MACs (at least one image): those behind the first
    /// that share its model and its operating point, in their order.
    pub fn cut(&mut self, most: usize, budget: f64) -> Option<Batch> {
        let first = self.waiting.front()?;
        let (engine, level) =
            (first.engine.clone(), self.sliding.as_ref().map(|sliding| sliding.controller.level()));
        let point = point_of(&engine, level, first.choice);
        let cost = engine.ladder.points[point].gmacs;
        let most = most.min((budget / cost) as usize).max(1);
        let mut images = Vec::new();
        let mut passed = VecDeque::new();
        while images.len() < most
            && let Some(image) = self.waiting.pop_front()
        {
            let fits = std::sync::Arc::ptr_eq(&image.engine, &engine)
                && point_of(&engine, level, image.choice) == point;
            if fits { images.push(image) } else { passed.push_back(image) }
        }
        passed.append(&mut self.waiting);
        self.waiting = passed;
        self.held -= images.len();
        Some(Batch { engine, point, images })
    }
}

/// The operating point of an image, when the server is at `level` (`None`: it does not slide).
fn point_of(engine: &SharedEngine, level: Option<usize>, choice: Choice) -> usize {
    let ladder = &engine.ladder;
    let server = match level {
        // An engine that was loaded since may have fewer points.
        Some(level) if engine.elastic => level.min(ladder.slide - 1),
        _ => ladder.fixed,
    };
    match choice {
        Choice::Server => server,
        Choice::NoCheaperThan(point) => server.min(point),
        Choice::Exactly(point) => point,
    }
}

/// The refusal of an image whose deadline has passed.
pub fn past_deadline() -> Refusal {
    Refusal::Deadline("the deadline passed before the answer was ready; allow more time, or send less".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_a_queue_is_what_its_images_will_take() {
        let mut queue = Queue::default();
        assert!(queue.hold(8, 10));
        assert_eq!(queue.work(), 0.0, "nothing is known yet");
        queue.computed(4, 1.0, 2.0);
        assert_eq!(queue.work(), 4.0);
        queue.computed(1, 1.0, 1.5);
        assert_eq!(queue.work(), 8.0 * 0.6);
    }
}
