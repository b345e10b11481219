//! Dense against pruned: throughput and latency over batch sizes.

use std::time::Duration;

use serde::Serialize;
use vitrim_data::{Dataset, Loader, LoaderOptions, Order};
use vitrim_prune::{ImageKey, Pruner, run, uniform};
use vitrim_vit::{PixelBatch, cost};

use crate::error::Result;
use crate::evaluate::keys;
use crate::loaded::Loaded;
use crate::speed::{Pixels, SpeedOptions, SpeedUp, speed_up};

/// Images that the mean cost is taken over, and that are kept in memory at least.
const IMAGES: usize = 64;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The backbone.
    pub model: String,
    /// The method and its setting.
    pub method: String,
    /// MACs of the dense model an image, in units of 1e9.
    pub dense_gmacs: f64,
    /// MACs of the pruned model an image, in units of 1e9, its scoring included.
    pub pruned_gmacs: f64,
    /// Dense over pruned MACs: the speed-up if time followed MACs.
    pub mac_ratio: f64,
    /// Mean share of N0 left after each stage, `[K]`.
    pub keep_ratio: Vec<f64>,
    /// One for each batch size.
    pub cells: Vec<SpeedUp>,
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

/// Times `loaded` dense and pruned by `pruner` (called `method`) at each batch size of `batches`, each for
/// about `time`.
///
/// # Errors
/// If the pruner does not fit the backbone.
pub fn bench(
    loaded: &Loaded,
    pruner: &mut dyn Pruner,
    method: String,
    images: &BenchImages,
    batches: &[usize],
    time: Duration,
    progress: &mut dyn FnMut(usize),
) -> Result<BenchReport> {
    let count = images.keys.len().min(IMAGES);
    let sample = &images.data[..count * loaded.transform.pixel_count()];
    let pruned = run(&loaded.model, pruner, PixelBatch::new(sample, count), &images.keys[..count])?;
    let dense_gmacs = cost::dense_macs(&loaded.spec) as f64 / 1e9;
    let pruned_gmacs = pruned.macs.iter().map(|m| *m as f64).sum::<f64>() / count as f64 / 1e9;
    let all = (count * loaded.spec.num_patches()) as f64;
    let survivors = pruned.stages.iter().map(|s| (0..count).map(|b| s.patch_tokens(b)).sum::<usize>());
    let mut cells = Vec::new();
    for &batch in batches {
        progress(batch);
        let options = SpeedOptions { rounds: 5, time, batches: usize::MAX };
        cells.push(speed_up(&loaded.model, pruner, images.pixels(), batch, options)?);
    }
    Ok(BenchReport {
        model: loaded.origin.clone(),
        method,
        dense_gmacs,
        pruned_gmacs,
        mac_ratio: dense_gmacs / pruned_gmacs,
        keep_ratio: survivors.map(|n| n as f64 / all).collect(),
        cells,
    })
}
