//! Images a second, dense and pruned, side by side.
//!
//! Rounds alternate between the two models over the same pixels in memory, so that whatever else the
//! machine does hits both alike; medians over the rounds are reported.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vitrim_prune::{ImageKey, Pruner, run};
use vitrim_vit::{CpuBackbone, PixelBatch};

use crate::error::{Result, VitrimError};
use crate::stats::Quantiles;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct SpeedOptions {
    /// Rounds at least.
    pub rounds: usize,
    /// Time to measure for, warm-up excluded: more rounds where the model is fast, fewer images a round
    /// where it is slow.
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
pub struct Pixels<'a> {
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

/// Measures `model` dense and pruned by `pruner`, `batch` images at a time.
///
/// # Errors
/// If there are fewer images than a batch, or a model refuses.
pub fn speed_up(
    model: &CpuBackbone,
    pruner: &mut dyn Pruner,
    pixels: Pixels<'_>,
    batch: usize,
    options: SpeedOptions,
) -> Result<SpeedUp> {
    let available = pixels.keys.len().checked_div(batch).unwrap_or(0).min(options.batches);
    if available == 0 {
        let images = pixels.keys.len();
        return Err(VitrimError::Setting(format!("{images} images are too few for a batch of {batch}")));
    }
    let mut times = [Times::default(), Times::default()];
    let run_dense = |at: usize| -> Result<()> {
        model.dense_logits(pixels.batch(at, batch).0)?;
        Ok(())
    };
    let mut run_pruned = |at: usize| -> Result<()> {
        let (pixels, keys) = pixels.batch(at, batch);
        run(model, pruner, pixels, keys)?;
        Ok(())
    };
    // Warm-up, which also says how many batches fit into the time.
    let started = Instant::now();
    let mut warm = 0;
    while warm < 2 || (started.elapsed() < options.time / 10 && warm < available) {
        run_dense(warm % available)?;
        run_pruned(warm % available)?;
        warm += 1;
    }
    let pair = started.elapsed().as_secs_f64() / warm as f64;
    let fitting = options.time.as_secs_f64() / (options.rounds as f64 * pair);
    let batches = (fitting as usize).clamp(1, available);

    let started = Instant::now();
    while times[0].rounds.len() < options.rounds || started.elapsed() < options.time {
        times[0].round(batches, batch, run_dense)?;
        times[1].round(batches, batch, &mut run_pruned)?;
    }
    let [dense, pruned] = times.each_ref().map(Times::rate);
    Ok(SpeedUp {
        batch,
        dense,
        pruned,
        speed_up: pruned.images_per_s / dense.images_per_s,
        rounds: times[0].rounds.len(),
        images: batches * batch,
    })
}

/// One model's measurements.
#[derive(Default)]
struct Times {
    /// Images/s of each round.
    rounds: Vec<f64>,
    /// Time of each batch, ms.
    batches: Vec<f64>,
}

impl Times {
    fn round(
        &mut self,
        batches: usize,
        batch: usize,
        mut run: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let started = Instant::now();
        for at in 0..batches {
            let batch_started = Instant::now();
            run(at)?;
            self.batches.push(1e3 * batch_started.elapsed().as_secs_f64());
        }
        self.rounds.push((batches * batch) as f64 / started.elapsed().as_secs_f64());
        Ok(())
    }

    fn rate(&self) -> Rate {
        let quantile = |values: &[f64], p| Quantiles::of(values.to_vec()).map_or(f64::NAN, |q| q.at(p));
        Rate {
            images_per_s: quantile(&self.rounds, 0.5),
            p50_ms: quantile(&self.batches, 0.5),
            p90_ms: quantile(&self.batches, 0.9),
            p99_ms: quantile(&self.batches, 0.99),
        }
    }
}
