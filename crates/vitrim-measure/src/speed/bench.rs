//! Speed of dense and pruned models: throughput, latency, and their bounds, over precisions and batch sizes.

use std::time::Duration;

use serde::Serialize;
use vitrim_kernels::InstructionSet;
use vitrim_kernels::memory::return_freed_memory;
use vitrim_prune::{Pruner, image_macs, run_to_answer};
use vitrim_vit::{Backbone, Operation, Precision, VitSpec};

use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::passes::dense_macs;
use crate::speed::bench_images::{BENCH_IMAGES, BenchImages};
use crate::speed::budgets::Budgets;
use crate::speed::peak_memory;
use crate::speed::{Entrant, Race, Rate, SpeedOptions, Streams, Timing, race};

/// Time for measuring the processor's peak.
const PEAK_TIME: Duration = Duration::from_millis(300);

/// A backbone in one precision, and its pruner.
pub(crate) struct BenchModel {
    /// The backbone.
    pub loaded: Loaded,
    /// The pruner.
    pub pruner: Box<dyn Pruner>,
}

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct BenchOptions {
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// Time for measuring each model at each batch size.
    pub time: Duration,
    /// Smallest number of rounds of all models at each batch size.
    pub rounds: usize,
    /// Batches in flight at once, between which the threads are divided.
    pub streams: usize,
    /// Whether to report the time of each operation.
    pub profile: bool,
    /// Stages and shares of N0 for the comparison of budgets that differ between images with equal ones, if
    /// requested.
    pub ragged: Option<(Vec<usize>, Vec<f64>)>,
}

/// The measured figures.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The backbone.
    pub model: String,
    /// The method and its setting.
    pub method: String,
    /// The instruction set in use.
    pub simd: String,
    /// Threads that compute.
    pub threads: usize,
    /// Batches in flight at once.
    pub streams: usize,
    /// MACs of the dense model per image, in units of 1e9.
    pub dense_gmacs: f64,
    /// One entry for each precision.
    pub dtypes: Vec<DtypeReport>,
    /// One entry for each batch size and precision.
    pub cells: Vec<Cell>,
    /// Memory use.
    pub memory: Memory,
}

/// Memory of the whole measurement, bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Packed weights of all precisions.
    pub weights: usize,
    /// `8 T D` f32 values at the largest batch, for each stream: an upper bound for a forward pass.
    pub activations: usize,
    /// Images to time with.
    pub pixels: usize,
    /// The sum of these, and 64 MiB for everything else.
    pub bound: usize,
    /// Peak resident memory since everything was loaded; null if the operating system does not report it.
    pub peak: Option<usize>,
}

/// Allowance for everything besides weights, activations and pixels, bytes.
const REST: usize = 64 << 20;

/// Cost in one precision, independent of the batch size.
#[derive(Clone, Debug, Serialize)]
pub struct DtypeReport {
    /// Data type of the backbone's arithmetic.
    #[serde(with = "crate::model::dtype")]
    pub dtype: Precision,
    /// MACs of the pruned model per image, in units of 1e9, its scoring included.
    pub pruned_gmacs: f64,
    /// Dense over pruned MACs: the speed-up if time followed MACs.
    pub mac_ratio: f64,
    /// Mean share of N0 left after each stage, `[K]`.
    pub keep_ratio: Vec<f64>,
    /// The processor's peak with all threads, in units of 1e9 floating-point operations per second; a multiply-add
    /// counts as two.
    pub peak_gflops: f64,
}

/// One precision at one batch size.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Data type of the backbone's arithmetic.
    #[serde(with = "crate::model::dtype")]
    pub dtype: Precision,
    /// Images per batch.
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
    /// Images per round.
    pub images: usize,
    /// Budgets that differ between images, if requested and there are several images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ragged: Option<Ragged>,
    /// Time by operation, if requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Spent>,
}

/// A model's speed compared with the processor's peak.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// Throughput and latency.
    #[serde(flatten)]
    pub rate: Rate,
    /// Operations per second, two per MAC, in units of 1e9.
    pub gflops: f64,
    /// `gflops` as a share of the peak in this precision. (In 8 bits, attention and patch embedding multiply in
    /// bf16.)
    pub of_peak: f64,
}

/// Ragged batches compared with even ones with as many tokens at each stage, both without any scoring.
#[derive(Clone, Debug, Serialize)]
pub struct Ragged {
    /// Images/s with equal budgets.
    pub equal: Rate,
    /// Images/s with budgets that differ by up to 30 %.
    pub varied: Rate,
    /// Varied over equal images/s.
    pub ratio: f64,
}

/// Time spent on an operation.
#[derive(Clone, Debug, Serialize)]
pub struct Spent {
    /// Its name.
    pub operation: String,
    /// Its share of a batch of the dense model.
    pub dense: Share,
    /// Its share of a batch of the pruned model.
    pub pruned: Share,
}

/// A part of a batch's time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// Mean over the batches, ms.
    pub ms: f64,
    /// Share of the batch's time.
    pub share: f64,
}

/// Measures `models`, one backbone in several precisions, dense and pruned (by the method called `method`), on
/// `images`. At each batch size, rounds alternate between all of them.
///
/// # Errors
/// If a pruner does not fit the backbone, a batch size is 0, there are fewer threads than streams, or there is no
/// stream.
///
/// # Panics
/// If there is no model.
pub(crate) fn bench(
    models: &[BenchModel],
    method: String,
    images: &BenchImages,
    options: &BenchOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<BenchReport> {
    if options.batches.contains(&0) || options.streams == 0 {
        return Err(MeasureError::Setting("batch sizes and streams must be at least 1".into()));
    }
    let streams = Streams::new(options.streams)?;
    return_freed_memory();
    let resettable = peak_memory::reset();
    let largest = options.batches.iter().copied().max().unwrap_or(1);
    let dtypes: Vec<DtypeReport> =
        models.iter().map(|model| costs(model, images, largest)).collect::<Result<_>>()?;
    let spec = models[0].loaded.spec.clone();
    let sessions: Vec<_> = models.iter().map(|model| streams.sessions(&model.loaded.model)).collect();
    let mut cells = Vec::new();
    for &batch in &options.batches {
        progress(batch);
        let budgets = budgets(options, &spec, batch)?;
        let mut entrants = Vec::new();
        for (BenchModel { pruner, .. }, sessions) in models.iter().zip(&sessions) {
            entrants.push(Entrant::dense(sessions));
            entrants.push(Entrant::pruned(sessions, pruner.as_ref()));
            entrants.extend(budgets.iter().flatten().map(|budgets| Entrant::pruned(sessions, budgets)));
        }
        let time = options.time * dtypes.len() as u32;
        let speed_options = SpeedOptions { rounds: options.rounds, time, batches: usize::MAX };
        let race = race(&entrants, images.pixels(), batch, speed_options)?;
        let each = race.timings.len() / dtypes.len();
        let timings = race.timings.chunks_exact(each).zip(&dtypes);
        let dense = dense_gmacs(&spec, images);
        cells.extend(timings.map(|(timings, dtype)| cell(timings, dtype, batch, dense, &race, options)));
    }
    let weights = models.iter().map(|model| model.loaded.model.weights().bytes()).sum::<usize>();
    let activations = options.streams * 8 * largest * spec.num_tokens() * spec.dim * size_of::<f32>();
    let pixels = size_of_val(images.data.as_slice());
    Ok(BenchReport {
        model: models[0].loaded.origin.clone(),
        method,
        simd: InstructionSet::current().to_string(),
        threads: rayon::current_num_threads(),
        streams: streams.count(),
        dense_gmacs: dense_gmacs(&spec, images),
        dtypes,
        cells,
        memory: Memory {
            weights,
            activations,
            pixels,
            bound: weights + activations + pixels + REST,
            peak: if resettable { peak_memory::peak() } else { None },
        },
    })
}

/// Equal and varied budgets for batches of `batch`, if their comparison is requested.
fn budgets(options: &BenchOptions, spec: &VitSpec, batch: usize) -> Result<Option<[Budgets; 2]>> {
    match &options.ragged {
        Some((stages, shares)) if batch > 1 => Ok(Some([
            Budgets::equal(spec, stages, shares, batch)?,
            Budgets::varied(spec, stages, shares, batch)?,
        ])),
        _ => Ok(None),
    }
}

/// Mean MACs of the dense model per image of `images`, in units of 1e9.
fn dense_gmacs(spec: &VitSpec, images: &BenchImages) -> f64 {
    let macs: u64 = dense_macs(spec, &images.batch().grids(spec)).iter().sum();
    macs as f64 / images.keys.len() as f64 / 1e9
}

/// The cell of one precision from its timings: dense, pruned, and budgets if requested.
fn cell(
    timings: &[Timing],
    dtype: &DtypeReport,
    batch: usize,
    dense_gmacs: f64,
    race: &Race,
    options: &BenchOptions,
) -> Cell {
    let (dense, pruned) = (&timings[0], &timings[1]);
    Cell {
        dtype: dtype.dtype,
        batch,
        dense: Speed::of(dense, dense_gmacs, dtype.peak_gflops),
        pruned: Speed::of(pruned, dtype.pruned_gmacs, dtype.peak_gflops),
        speed_up: pruned.rate.images_per_s / dense.rate.images_per_s,
        overhead: pruned.overhead(),
        rounds: race.rounds,
        images: race.images,
        ragged: timings.get(2..4).map(|budgets| {
            let (equal, varied) = (budgets[0].rate, budgets[1].rate);
            Ragged { equal, varied, ratio: varied.images_per_s / equal.images_per_s }
        }),
        profile: if options.profile { profile(dense, pruned) } else { Vec::new() },
    }
}

/// The cost of `model`, over the first images, in batches of at most `largest`.
fn costs(model: &BenchModel, images: &BenchImages, largest: usize) -> Result<DtypeReport> {
    let BenchModel { loaded, pruner } = model;
    let count = images.keys.len().min(BENCH_IMAGES);
    let (mut macs, mut patches, mut survivors) = (0.0, 0, Vec::new());
    for first in (0..count).step_by(largest) {
        let batch = largest.min(count - first);
        let (pixels, keys) = images.pixels().part(first..first + batch);
        let (model, pruner) = (&loaded.model, pruner.as_ref());
        let stages = run_to_answer(model, pruner, &mut model.embed(pixels)?, keys)?;
        for (b, grid) in pixels.grids(&loaded.spec).into_iter().enumerate() {
            macs += image_macs(&loaded.spec.of_grid(grid), pruner, &stages, b) as f64;
            patches += grid[0] * grid[1];
        }
        survivors.resize(stages.len(), 0);
        for (sum, stage) in survivors.iter_mut().zip(&stages) {
            *sum += (0..batch).map(|b| stage.patch_tokens(b)).sum::<usize>();
        }
    }
    let (dtype, all) = (loaded.model.weights().precision(), patches as f64);
    let pruned_gmacs = macs / count as f64 / 1e9;
    Ok(DtypeReport {
        dtype,
        pruned_gmacs,
        mac_ratio: dense_gmacs(&loaded.spec, images) / pruned_gmacs,
        keep_ratio: survivors.iter().map(|n| *n as f64 / all).collect(),
        peak_gflops: peak_gflops(dtype),
    })
}

/// The peak of all threads at once.
fn peak_gflops(precision: Precision) -> f64 {
    let threads = rayon::broadcast(|_| InstructionSet::current().fma_peak(precision, PEAK_TIME));
    2.0 * threads.iter().sum::<f64>() / 1e9
}

impl Speed {
    /// The speed of a model with a cost of `gmacs` per image.
    fn of(timing: &Timing, gmacs: f64, peak_gflops: f64) -> Self {
        let gflops = 2.0 * gmacs * timing.rate.images_per_s;
        Speed { rate: timing.rate, gflops, of_peak: gflops / peak_gflops }
    }
}

/// Time by operation of both models, in the order of the data flow.
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

#[cfg(test)]
mod tests {
    use vitrim_prune::NoPruner;

    use super::*;

    #[test]
    fn neither_empty_batches_nor_no_stream_are_timed() {
        let loaded = Loaded::random(
            "deit_tiny_patch16_224",
            crate::model::Opening { img_size: Some([32, 32]), ..Default::default() },
        );
        let loaded = loaded.unwrap();
        let images = BenchImages::random(&loaded, 1);
        let models = [BenchModel { loaded, pruner: Box::new(NoPruner) }];
        let (time, rounds) = (Duration::from_millis(1), 1);
        for (batches, streams) in [(vec![0], 1), (vec![1], 0)] {
            let options = BenchOptions { batches, time, rounds, streams, profile: false, ragged: None };
            let error = bench(&models, "none".into(), &images, &options, &mut |_| ()).unwrap_err();
            assert!(error.to_string().contains("at least 1"), "{error}");
        }
    }
}
