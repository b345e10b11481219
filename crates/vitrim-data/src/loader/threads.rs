//! The threads behind a loader: a reader that walks the data set, workers that decode.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::LoaderOptions;
use crate::augment::Augment;
use crate::corruption::Corruption;
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::order::Order;
use crate::transform::Transform;
use crate::visit::{Payload, visit};

/// What became of one image.
pub(super) enum Outcome {
    /// `pixels: [3, H, W]` of the image at `index`.
    Pixels { index: usize, pixels: Vec<f32> },
    /// The image at this position cannot be had; the next one may.
    Bad(usize, DataError),
    /// Nothing comes after this.
    Broken(DataError),
    /// Nothing comes after this, because all have been visited.
    End,
}

/// An image on its way to a worker.
struct Job {
    /// Its place in this pass, from 0 without gaps.
    place: usize,
    index: usize,
    payload: Payload,
}

pub(super) struct Threads {
    /// Dropped to tell the threads to stop.
    consumer: Option<Consumer>,
    handles: Vec<JoinHandle<()>>,
    work: Arc<Work>,
}

/// What the workers have done so far.
pub(super) struct Work {
    /// Bad ones included.
    images: AtomicUsize,
    /// Summed over the workers.
    nanoseconds: AtomicU64,
    workers: usize,
}

impl Work {
    fn add(&self, time: Duration) {
        self.images.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

struct Consumer {
    results: Receiver<(usize, Outcome)>,
    /// Holds one `()` for each image between the reader and the consumer.
    permits: Receiver<()>,
}

impl Threads {
    pub(super) fn start(
        dataset: &Dataset,
        order: Order,
        transform: &Transform,
        places: Range<usize>,
        options: &LoaderOptions,
    ) -> Result<Self, DataError> {
        let workers = match options.workers {
            0 => available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        // No more threads than images, no more room than images.
        let workers = workers.min(places.len()).max(1);
        let ahead = options.batch.saturating_add(4 * workers).min(places.len()).max(1);
        let (permit, permits) = bounded(ahead);
        let (job, jobs) = unbounded::<Job>();
        let (result, results) = unbounded();

        let epoch = match order {
            Order::Sequential => 0,
            Order::Shuffled { epoch, .. } => epoch,
        };
        let change = Change {
            augment: options.augment.map(|augment| (augment, epoch)),
            corruption: options.corruption,
        };
        let work = Arc::new(Work { images: AtomicUsize::new(0), nanoseconds: AtomicU64::new(0), workers });
        let consumer = Some(Consumer { results, permits });
        let mut threads = Self { consumer, handles: Vec::new(), work: Arc::clone(&work) };
        for number in 0..workers {
            let (dataset, transform) = (dataset.clone(), transform.clone());
            let (jobs, result, work) = (jobs.clone(), result.clone(), Arc::clone(&work));
            threads.spawn(format!("vitrim-decode-{number}"), move || {
                for Job { place, index, payload } in jobs {
                    let started = Instant::now();
                    let outcome = make(&dataset, &transform, change, index, payload);
                    work.add(started.elapsed());
                    if result.send((place, outcome)).is_err() {
                        return;
                    }
                }
            })?;
        }
        let dataset = dataset.clone();
        threads.spawn("vitrim-read".into(), move || {
            read(&dataset, order, places, &permit, &job, &result);
        })?;
        Ok(threads)
    }

    /// Results in the order in which they become ready.
    pub(super) fn results(&self) -> Option<&Receiver<(usize, Outcome)>> {
        self.consumer.as_ref().map(|consumer| &consumer.results)
    }

    /// Images decoded, seconds that took summed over the workers, and workers.
    pub(super) fn work(&self) -> (usize, f64, usize) {
        let Work { images, nanoseconds, workers } = &*self.work;
        (images.load(Ordering::Relaxed), nanoseconds.load(Ordering::Relaxed) as f64 / 1e9, *workers)
    }

    /// Lets the reader go one image further.
    pub(super) fn give_permit(&self) {
        if let Some(consumer) = &self.consumer {
            // Nothing to take is no error: a broken data set reports itself without a permit.
            let _taken = consumer.permits.try_recv();
        }
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), DataError> {
        let handle = Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|cause| DataError::Threads { what: format!("could not be started ({cause})") })?;
        self.handles.push(handle);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Without receivers, every thread's next send fails and it returns.
        self.consumer = None;
        for handle in self.handles.drain(..) {
            // A thread's panic has already reached the consumer as an early end.
            let _ended = handle.join();
        }
    }
}

/// Hands out jobs until the places are visited or nobody wants more.
fn read(
    dataset: &Dataset,
    order: Order,
    places: Range<usize>,
    permit: &Sender<()>,
    job: &Sender<Job>,
    result: &Sender<(usize, Outcome)>,
) {
    let mut place = 0;
    let walked = visit(dataset, order, places, &mut |index, payload| {
        let sent = permit.send(()).is_ok() && job.send(Job { place, index, payload }).is_ok();
        place += 1;
        sent
    });
    let end = match walked {
        Ok(()) => Outcome::End,
        Err(error) => Outcome::Broken(error),
    };
    // A consumer that is gone needs no end.
    let _sent = result.send((place, end));
}

/// What is done to images at the model's input size.
#[derive(Clone, Copy)]
struct Change {
    /// With its epoch.
    augment: Option<(Augment, u64)>,
    corruption: Option<Corruption>,
}

/// Bytes to pixels, changed. A decoder's panic is the image's fault, not the program's.
fn make(dataset: &Dataset, transform: &Transform, change: Change, index: usize, payload: Payload) -> Outcome {
    let made = catch_unwind(AssertUnwindSafe(|| {
        let mut image = transform.cropped(&dataset.decoded(index, payload)?);
        if let Some((augment, epoch)) = change.augment {
            image = augment.apply(&image, epoch, index);
        }
        if let Some(corruption) = change.corruption {
            image = corruption.apply(&image, index)?;
        }
        Ok(transform.normalized(&image))
    }));
    match made {
        Ok(Ok(pixels)) => Outcome::Pixels { index, pixels },
        Ok(Err(error)) => Outcome::Bad(index, error),
        Err(panic) => Outcome::Bad(index, DataError::bad_image(dataset.origin(index), message_of(&*panic))),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the decoder panicked: {}", text.unwrap_or("without a message"))
}
