//! Passes whose batches other processes measure, with the figures of one process, bit for bit.
//!
//! A process that evaluates or calibrates states what a pass measures ([`PassTask`]). Others measure shares of its
//! batches ([`measure_share`]): for each batch the figures of single images ([`MeasuredBatch`]), a few dozen bytes an
//! image. The first process adds them in the order of the batches, as it adds its own: every sum has the same terms in
//! the same order, however many processes there were and whichever of them died and were replaced. A batch has the same
//! images as in one process, because a share begins with a batch, and an image that cannot be decoded ends the pass.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vitrim_data::{Dataset, OnBadImage, Order};
use vitrim_prune::{AnyPolicy, Method, Pruned, Pruner};

use crate::calibrate::SettingsUnderTest;
use crate::error::{MeasureError, Result};
use crate::metrics::PrunedFigures;
use crate::model::Loaded;
use crate::passes::{Pass, PassBatch, PassOptions, each_batch, start};
use crate::progress::Progress;

/// What a pass measures on a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassTask {
    /// The order of the images.
    pub order: Order,
    /// Images per batch.
    pub batch: usize,
    /// The pruners.
    pub pruners: TaskPruners,
}

/// The pruners of a pass, beside the dense model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPruners {
    /// The policy at each of some settings.
    Settings {
        /// The settings, from the mildest to the boldest.
        settings: Vec<f64>,
        /// The offsets of a learned policy's stages, which may differ from those on record.
        offsets: Vec<f32>,
    },
    /// The policy as it is read out; none without a policy.
    Policy,
    /// Hand-made methods at these stages and shares of N0.
    HandMade {
        /// The methods' names.
        methods: Vec<String>,
        /// The stages.
        stages: Vec<usize>,
        /// The shares.
        keep: Vec<f64>,
    },
}

/// The figures of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredBatch {
    /// Position of its first image in the order of the pass.
    pub(crate) first: usize,
    /// Position of each image in the data set, `[B]`.
    pub(crate) indices: Vec<usize>,
    /// Labels, `[B]`.
    pub(crate) labels: Vec<Option<u32>>,
    /// The dense model's class of each image, `[B]`.
    pub(crate) dense: Vec<usize>,
    /// Its MACs for each image, `[B]`.
    pub(crate) dense_macs: Vec<u64>,
    /// The figures of each pruner, in the order of the task.
    pub(crate) pruned: Vec<PrunedFigures>,
}

/// Asks other processes for the figures of a pass: called with the images, the task as JSON, the number of images and that
/// of images in a batch, it returns the answers of [`measure_share`] as JSON, in order.
pub type Gather<'a> = dyn Fn(&Dataset, &str, usize, usize) -> Result<Vec<Vec<u8>>> + Send + Sync + 'a;

/// Other processes that measure.
#[derive(Clone)]
pub struct Elsewhere<'a> {
    gather: Arc<Gather<'a>>,
}

impl fmt::Debug for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

impl<'a> Elsewhere<'a> {
    /// The processes behind `gather`.
    pub fn new(gather: Arc<Gather<'a>>) -> Self {
        Elsewhere { gather }
    }

    /// The figures of all batches of a pass over the first `images` images of `dataset` in the order.
    ///
    /// # Errors
    /// Errors of the processes, or if their answers are not those of each batch once.
    pub(crate) fn batches(
        &self,
        dataset: &Dataset,
        task: &PassTask,
        images: usize,
    ) -> Result<Vec<MeasuredBatch>> {
        let text = serde_json::to_string(task).expect("a task is plain data");
        let mut batches: Vec<MeasuredBatch> = Vec::new();
        for share in (self.gather)(dataset, &text, images, task.batch)? {
            let share: Vec<MeasuredBatch> = serde_json::from_slice(&share).map_err(|error| {
                MeasureError::Setting(format!("the figures of a share are damaged ({error})"))
            })?;
            batches.extend(share);
        }
        let mut next = 0;
        for batch in &batches {
            if batch.first != next || batch.indices.len() != task.batch.min(images - next.min(images)) {
                return Err(MeasureError::Setting(format!(
                    "the figures of images {next} to {} are missing or come twice",
                    batch.first
                )));
            }
            next += batch.indices.len();
        }
        if next == images {
            Ok(batches)
        } else {
            Err(MeasureError::Setting(format!("the figures end at image {next} of {images}")))
        }
    }
}

impl MeasuredBatch {
    /// Of `batch`, which begins at `first` in the order of the pass, with the answers of its pruners.
    pub(crate) fn of(first: usize, batch: &PassBatch<'_>, pruned: Vec<PrunedFigures>) -> Self {
        MeasuredBatch {
            first,
            indices: batch.images.indices.clone(),
            labels: batch.images.labels.clone(),
            dense: batch.dense.argmax(),
            dense_macs: batch.dense_macs(),
            pruned,
        }
    }
}

/// Measures images `first` to `first + images` of the order of `task` on `dataset`; `policy` is the model's, if it has
/// one. `first` must be a multiple of the images in a batch.
///
/// # Errors
/// If an image cannot be read, a method is unknown, or the work was asked to stop.
pub fn measure_share(
    loaded: &Loaded,
    policy: Option<&AnyPolicy>,
    dataset: &Dataset,
    task: &PassTask,
    (first, images): (usize, usize),
    workers: usize,
    progress: &mut Progress<'_>,
) -> Result<Vec<MeasuredBatch>> {
    let spec = &loaded.spec;
    let options = PassOptions {
        batch: task.batch,
        workers,
        skip: first,
        images: Some(images),
        on_bad_image: OnBadImage::Fail,
        corruption: None,
    };
    let given = || {
        policy.ok_or_else(|| MeasureError::Setting("settings are those of a policy; there is none".into()))
    };
    // At settings, a batch may need fewer runs than there are settings.
    let under_test = match &task.pruners {
        TaskPruners::Settings { settings, offsets } => {
            Some(SettingsUnderTest::new(spec, &given()?.clone().with_offsets(offsets), settings)?)
        }
        _ => None,
    };
    let pruners: Vec<Box<dyn Pruner>> = match &task.pruners {
        TaskPruners::Settings { .. } => Vec::new(),
        TaskPruners::Policy => policy.map(|policy| policy.pruner(spec)).transpose()?.into_iter().collect(),
        TaskPruners::HandMade { methods, stages, keep } => {
            let made = |name: &String| Ok(name.parse::<Method>()?.at_shares(spec, stages, keep)?);
            methods.iter().map(made).collect::<Result<_>>()?
        }
    };
    let all = pruners.iter().map(AsRef::as_ref);
    let at = under_test.iter().flat_map(|settings| &settings.each);
    let at = at.map(|(_, measured)| measured.pruner.as_ref());
    let pass = Pass {
        loaded,
        dataset,
        order: task.order,
        options: &options,
        start: start(all.chain(at), spec),
        dense: None,
    };
    let mut measured = Vec::new();
    let mut next = first;
    each_batch(pass, progress, &mut |batch| {
        let figures = |pruned: &Pruned| PrunedFigures::of(spec, batch.dense, pruned);
        let pruned = match &under_test {
            Some(settings) => settings.figures(spec, batch)?,
            None => pruners
                .iter()
                .map(|pruner| Ok(figures(&batch.pruned(pruner.as_ref())?)))
                .collect::<Result<_>>()?,
        };
        measured.push(MeasuredBatch::of(next, batch, pruned));
        next += batch.images.len();
        Ok(())
    })?;
    Ok(measured)
}
