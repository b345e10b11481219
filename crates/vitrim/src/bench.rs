//! Dense against pruned: throughput, latency, and what bounds them, over precisions and batch sizes.

use std::time::Duration;

use serde::Serialize;
use vitrim_data::{Dataset, Loader, LoaderOptions, Order};
use vitrim_kernels::{Level, fma_peak};
use vitrim_prune::{ImageKey, Pruner, run, uniform};
use vitrim_vit::{Operation, PixelBatch, Precision, cost};

use crate::error::Result;
use crate::evaluate::keys;
use crate::loaded::Loaded;
use crate::speed::{Entrant, Pixels, Race, Rate, SpeedOptions, Timing, race};

/// Images that the mean cost is taken over, and that are kept in memory at least.
const IMAGES: usize = 64;
/// Least rounds of all models at each batch size.
const ROUNDS: usize = 5;
/// Time to look for the processor's peak for.
const PEAK_TIME: Duration = Duration::from_millis(300);

/// A backbone in one precision, and what prunes it.
pub struct Subject {
    /// The backbone.
    pub loaded: Loaded,
    /// Its pruner.
    pub pruner: Box<dyn Pruner>,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// For how long to measure each subject at each batch size.
    pub time: Duration,
    /// Whether to say where the time goes.
    pub profile: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The backbone.
    pub model: String,
    /// The method and its setting.
    pub method: String,
    /// The instructions in use.
    pub simd: String,
    /// Threads that compute.
    pub threads: usize,
    /// MACs of the dense model an image, in units of 1e9.
    pub dense_gmacs: f64,
    /// One for each precision.
    pub dtypes: Vec<DtypeReport>,
    /// One for each batch size and precision.
    pub cells: Vec<Cell>,
}

/// What a precision costs at any batch size.
#[derive(Clone, Debug, Serialize)]
pub struct DtypeReport {
    /// In what the backbone multiplies.
    #[serde(with = "crate::dtype")]
    pub dtype: Precision,
    /// MACs of the pruned model an image, in units of 1e9, its scoring included.
    pub pruned_gmacs: f64,
    /// Dense over pruned MACs: the speed-up if time followed MACs.
    pub mac_ratio: f64,
    /// Mean share of N0 left after each stage, `[K]`.
    pub keep_ratio: Vec<f64>,
    /// What the processor does at most, all threads at once, in units of 1e9 floating-point operations a second;
    /// a multiply-add counts as two.
    pub peak_gflops: f64,
}

/// One precision at one batch size.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// In what the backbone multiplies.
    #[serde(with = "crate::dtype")]
    pub dtype: Precision,
    /// Images a batch.
    pub batch: usize,
    /// The dense model.
    pub dense: Speed,
    /// The pruned model, the pruner's own time included.
    pub pruned: Speed,
    /// Pruned over dense images/s.
    pub speed_up: f64,
    /// Share of the pruned model's time that the pruner's decisions and the compaction take.
    pub overhead: f64,
    /// Rounds measured.
    pub rounds: usize,
    /// Images a round.
    pub images: usize,
    /// Where the time goes, if asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Spent>,
}

/// A model's speed beside the processor's.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// Throughput and latency.
    #[serde(flatten)]
    pub rate: Rate,
    /// Operations done, two a MAC, in units of 1e9 a second.
    pub gflops: f64,
    /// The same as a share of the peak in this precision. (In 8 bits, attention and patch embedding multiply in bf16.)
    pub of_peak: f64,
}

/// Time spent on an operation.
#[derive(Clone, Debug, Serialize)]
pub struct Spent {
    /// Its name.
    pub operation: String,
    /// In a batch of the dense model.
    pub dense: Share,
    /// In a batch of the pruned model.
    pub pruned: Share,
}

/// A part of a batch's time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// Mean over the batches, ms.
    pub ms: f64,
    /// The same as a share of the batch's time.
    pub share: f64,
}

/// Images in memory to time with.
pub struct BenchImages {
    data: Vec<f32>,
    keys: Vec<ImageKey>,
}

impl BenchImages {
    /// Random pixels, enough for batches of `batch`.
    pub fn random(loaded: &Loaded, batch: usize) -> Self {
        let count = batch.max(IMAGES);
        let values = loaded.transform.pixel_count();
        let pixel = |i: usize| (2.0 * uniform(&[0, i as u64]) - 1.0) as f32;
        // One image's pixels, shifted by a few for each image: cheap, and no two are equal.
        let one: Vec<f32> = (0..values).map(pixel).collect();
        let mut data = Vec::with_capacity(count * values);
        for image in 0..count {
            let shift = 7 * image % values;
            data.extend_from_slice(&one[shift..]);
            data.extend_from_slice(&one[..shift]);
        }
        BenchImages { data, keys: (0..count as u64).collect() }
    }

    /// All of them.
    pub fn pixels(&self) -> Pixels<'_> {
        Pixels { data: &self.data, keys: &self.keys }
    }

    /// The first images of `dataset`, repeated if they are fewer than a batch of `batch`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn of(loaded: &Loaded, dataset: &Dataset, batch: usize) -> Result<Self> {
        let count = batch.max(IMAGES);
        let options = LoaderOptions { batch: count, limit: Some(count), ..LoaderOptions::default() };
        let mut images = BenchImages { data: Vec::new(), keys: Vec::new() };
        for batch in Loader::new(dataset, Order::Sequential, &loaded.transform, options)? {
            let batch = batch?;
            images.keys.extend(keys(&batch));
            images.data.extend(batch.pixels);
        }
        let (values, read) = (loaded.transform.pixel_count(), images.keys.len());
        for i in read..count {
            images.keys.push(images.keys[i % read]);
            images.data.extend_from_within((i % read) * values..(i % read + 1) * values);
        }
        Ok(images)
    }
}

/// Times `subjects`, one backbone in several precisions, dense and pruned (by what is called `method`), over
/// `images`. At each batch size, rounds alternate between all of them.
///
/// # Errors
/// If a pruner does not fit the backbone.
///
/// # Panics
/// If there is no subject.
pub fn bench(
    subjects: &mut [Subject],
    method: String,
    images: &BenchImages,
    options: &BenchOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<BenchReport> {
    let largest = options.batches.iter().copied().max().unwrap_or(1);
    let dtypes: Vec<DtypeReport> =
        subjects.iter_mut().map(|subject| costs(subject, images, largest)).collect::<Result<_>>()?;
    let first = &subjects[0].loaded;
    let (model, dense_gmacs) = (first.origin.clone(), cost::dense_macs(&first.spec) as f64 / 1e9);
    let mut cells = Vec::new();
    for &batch in &options.batches {
        progress(batch);
        let mut entrants = Vec::new();
        for Subject { loaded, pruner } in &mut *subjects {
            entrants.push(Entrant::dense(&loaded.model));
            entrants.push(Entrant::pruned(&loaded.model, pruner.as_mut()));
        }
        let time = options.time * dtypes.len() as u32;
        let speed_options = SpeedOptions { rounds: ROUNDS, time, batches: usize::MAX };
        let Race { timings, rounds, images } = race(&mut entrants, images.pixels(), batch, speed_options)?;
        for (pair, dtype) in timings.chunks_exact(2).zip(&dtypes) {
            let (dense, pruned) = (&pair[0], &pair[1]);
            cells.push(Cell {
                dtype: dtype.dtype,
                batch,
                dense: Speed::of(dense, dense_gmacs, dtype.peak_gflops),
                pruned: Speed::of(pruned, dtype.pruned_gmacs, dtype.peak_gflops),
                speed_up: pruned.rate.images_per_s / dense.rate.images_per_s,
                overhead: pruned.overhead(),
                rounds,
                images,
                profile: if options.profile { profile(dense, pruned) } else { Vec::new() },
            });
        }
    }
    let (simd, threads) = (Level::current().to_string(), rayon::current_num_threads());
    Ok(BenchReport { model, method, simd, threads, dense_gmacs, dtypes, cells })
}

/// What `subject` costs, over the first images, in batches of at most `largest`.
fn costs(subject: &mut Subject, images: &BenchImages, largest: usize) -> Result<DtypeReport> {
    let Subject { loaded, pruner } = subject;
    let values = loaded.transform.pixel_count();
    let count = images.keys.len().min(IMAGES);
    let (mut macs, mut survivors) = (0.0, Vec::new());
    for first in (0..count).step_by(largest) {
        let batch = largest.min(count - first);
        let pixels = PixelBatch::new(&images.data[first * values..(first + batch) * values], batch);
        let pruned = run(&loaded.model, pruner.as_mut(), pixels, &images.keys[first..first + batch])?;
        macs += pruned.macs.iter().map(|m| *m as f64).sum::<f64>();
        survivors.resize(pruned.stages.len(), 0);
        for (sum, stage) in survivors.iter_mut().zip(&pruned.stages) {
            *sum += (0..batch).map(|b| stage.patch_tokens(b)).sum::<usize>();
        }
    }
    let (dtype, all) = (loaded.model.precision(), (count * loaded.spec.num_patches()) as f64);
    let pruned_gmacs = macs / count as f64 / 1e9;
    Ok(DtypeReport {
        dtype,
        pruned_gmacs,
        mac_ratio: cost::dense_macs(&loaded.spec) as f64 / 1e9 / pruned_gmacs,
        keep_ratio: survivors.iter().map(|n| *n as f64 / all).collect(),
        peak_gflops: peak_gflops(dtype),
    })
}

/// What all threads do at most, all at once.
fn peak_gflops(precision: Precision) -> f64 {
    let threads = rayon::broadcast(|_| fma_peak(Level::current(), precision, PEAK_TIME));
    2.0 * threads.iter().sum::<f64>() / 1e9
}

impl Speed {
    /// The speed of a model of `gmacs` an image.
    fn of(timing: &Timing, gmacs: f64, peak_gflops: f64) -> Self {
        let gflops = 2.0 * gmacs * timing.rate.images_per_s;
        Speed { rate: timing.rate, gflops, of_peak: gflops / peak_gflops }
    }
}

/// Where the time of both models goes, as the data flows.
fn profile(dense: &Timing, pruned: &Timing) -> Vec<Spent> {
    let spent = |operation: &str, ms: &dyn Fn(&Timing) -> f64| {
        let share = |timing: &Timing| Share { ms: ms(timing), share: ms(timing) / timing.batch_ms };
        Spent { operation: operation.to_owned(), dense: share(dense), pruned: share(pruned) }
    };
    let mut rows = Vec::new();
    for operation in Operation::ALL {
        if operation == Operation::Compaction {
            rows.push(spent("policy scoring", &|timing| timing.scoring_ms));
        }
        rows.push(spent(&operation.to_string(), &|timing| timing.operations_ms[operation as usize]));
    }
    rows.push(spent("the rest", &Timing::rest_ms));
    rows
}
