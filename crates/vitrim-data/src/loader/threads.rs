//! The threads behind a loader: a reader that walks the data set, workers that decode.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use image::RgbImage;

use super::options::{BatchShare, LoaderOptions};
use crate::dataset::Dataset;
use crate::decoding::guarded;
use crate::error::DataError;
use crate::order::Order;
use crate::sources::Payload;
use crate::transform::{Augment, Corruption, Transform};

/// The result of one image.
pub(super) enum ImageOutcome {
    /// `pixels: [3, H, W]` of the image at `index`, of `size` (H, W).
    Pixels { index: usize, pixels: Vec<f32>, size: [usize; 2] },
    /// The image at this position cannot be read or decoded; the next one may.
    Bad(usize, DataError),
    /// The data set cannot be read further.
    Broken(DataError),
    /// All images have been visited.
    End,
}

/// An image to be processed by a worker.
struct Job {
    /// Its position in this pass, from 0 without gaps.
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
    /// Number of images, bad ones included.
    images: AtomicUsize,
    /// Working time, summed over the workers.
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
    results: Receiver<(usize, ImageOutcome)>,
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
        // No more threads than images, and no more prefetched images than there are.
        let workers = workers.min(places.len()).max(1);
        let prefetched = options.batch.saturating_add(4 * workers).min(places.len()).max(1);
        let (permit, permits) = bounded(prefetched);
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
                    let decode = || dataset.decoded(index, payload);
                    let outcome = make(index, decode, || dataset.origin(index), &transform, change);
                    work.add(started.elapsed());
                    if result.send((place, outcome)).is_err() {
                        return;
                    }
                }
            })?;
        }
        let (dataset, whole) = (dataset.clone(), Batches { share: options.share, batch: options.batch });
        threads.spawn("vitrim-read".into(), move || {
            read(&dataset, order, places, whole, &permit, &job, &result);
        })?;
        Ok(threads)
    }

    /// Results in the order in which they become ready.
    pub(super) fn results(&self) -> Option<&Receiver<(usize, ImageOutcome)>> {
        self.consumer.as_ref().map(|consumer| &consumer.results)
    }

    /// Number of images decoded, working time in seconds summed over the workers, and number of workers.
    pub(super) fn work(&self) -> (usize, f64, usize) {
        let Work { images, nanoseconds, workers } = &*self.work;
        (images.load(Ordering::Relaxed), nanoseconds.load(Ordering::Relaxed) as f64 / 1e9, *workers)
    }

    /// Lets the reader read one more image.
    pub(super) fn give_permit(&self) {
        if let Some(consumer) = &self.consumer {
            // It is no error if there is no permit: a broken data set reports itself without one.
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

/// The batches of a pass, and the share of each that is read.
#[derive(Clone, Copy)]
struct Batches {
    share: BatchShare,
    /// Images in a batch.
    batch: usize,
}

impl Batches {
    /// Whether the image at `place` of a pass of `all` images is read.
    fn has(self, place: usize, all: usize) -> bool {
        let first = place - place % self.batch;
        let images = self.batch.min(all - first);
        self.share.is_all() || self.share.places(images).contains(&(place - first))
    }
}

/// Creates jobs until all positions are visited or the consumer stops.
fn read(
    dataset: &Dataset,
    order: Order,
    places: Range<usize>,
    batches: Batches,
    permit: &Sender<()>,
    job: &Sender<Job>,
    result: &Sender<(usize, ImageOutcome)>,
) {
    let (mut place, mut visited, all) = (0, 0, places.len());
    let walked = dataset.visit(order, places, &mut |index, payload| {
        visited += 1;
        if !batches.has(visited - 1, all) {
            return true;
        }
        let sent = permit.send(()).is_ok() && job.send(Job { place, index, payload }).is_ok();
        place += 1;
        sent
    });
    let end = match walked {
        Ok(()) => ImageOutcome::End,
        Err(error) => ImageOutcome::Broken(error),
    };
    // If the consumer is gone, it needs no end.
    let _sent = result.send((place, end));
}

/// Changes to images at the model's input size.
#[derive(Clone, Copy)]
struct Change {
    /// The augmentation and the epoch.
    augment: Option<(Augment, u64)>,
    corruption: Option<Corruption>,
}

/// The pixels of the image at `index` that `decode` returns, cropped and changed; a panic becomes a bad-image error
/// at `origin`.
fn make(
    index: usize,
    decode: impl FnOnce() -> Result<RgbImage, DataError>,
    origin: impl FnOnce() -> String,
    transform: &Transform,
    change: Change,
) -> ImageOutcome {
    let made = guarded(origin, || {
        let mut image = transform.cropped(&decode()?);
        if let Some((augment, epoch)) = change.augment {
            image = augment.apply(&image, epoch, index);
        }
        if let Some(corruption) = change.corruption {
            image = corruption.apply(&image, index)?;
        }
        Ok((transform.normalized(&image), [image.height() as usize, image.width() as usize]))
    });
    match made {
        Ok((pixels, size)) => ImageOutcome::Pixels { index, pixels, size },
        Err(error) => ImageOutcome::Bad(index, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Preprocess;

    #[test]
    fn a_decoder_that_panics_gives_a_bad_image_at_its_place() {
        let transform = Transform::new(Preprocess::default()).unwrap();
        let change = Change { augment: None, corruption: None };
        let origin = || "b/7.jpg".to_owned();
        let panics = || panic!("index out of bounds");
        let ImageOutcome::Bad(index, error) = make(7, panics, origin, &transform, change) else {
            panic!("no bad image");
        };
        let error = error.to_string();
        assert!(index == 7 && error.starts_with("b/7.jpg: cannot be decoded"), "{error}");
        assert!(error.contains("the decoder panicked: index out of bounds"), "{error}");
        let decode = || Ok(RgbImage::new(9, 9));
        assert!(matches!(
            make(8, decode, origin, &transform, change),
            ImageOutcome::Pixels { index: 8, pixels, size: [224, 224] } if pixels.len() == transform.pixel_count()
        ));
    }
}
