//! A training run on disk: images in, updates, logs, checkpoints; stop and go on.
//!
//! A run folder holds `policy/` (usable at any time), `log.jsonl`, TensorBoard event files and
//! `checkpoint.safetensors`. An interrupted run goes on from its checkpoint bit for bit.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vitrim_data::{Batch, Dataset, Loader, LoaderOptions, OnBadImage, Order, Transform};
use vitrim_prune::ImageKey;
use vitrim_prune::policy::BackboneId;
use vitrim_vit::{Backbone, PixelBatch, Tensors};

use crate::checkpoint;
use crate::config::TrainConfig;
use crate::device::DeviceChoice;
use crate::epochs::Epochs;
use crate::error::{Result, TrainError};
use crate::run_log::RunLog;
use crate::trainer::{Images, Probe, Trainer, TrainerState, UpdateLog};

/// Where a run's images come from.
#[derive(Clone)]
pub struct Source {
    /// The training images.
    pub dataset: Dataset,
    /// Image to pixels.
    pub transform: Transform,
    /// Decoding threads.
    pub workers: usize,
    /// What a corrupt image does.
    pub on_bad_image: OnBadImage,
}

/// One training run: what must stay the same when it is resumed, and where it is kept.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The backbone's identity.
    pub id: &'a BackboneId,
    /// Its weights, which the learner `gumbel` needs.
    pub weights: Option<&'a Tensors>,
    /// The configuration.
    pub config: &'a TrainConfig,
    /// The images.
    pub source: &'a Source,
    /// Where the networks are trained.
    pub device: DeviceChoice,
    /// The run folder.
    pub folder: &'a Path,
}

/// How a call of [`train`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All updates are done.
    Finished,
    /// It was asked to stop; the checkpoint has the updates done.
    Interrupted,
}

/// What is told while a run goes on.
pub enum Progress<'a> {
    /// The reference images are being probed: images done, of how many.
    Reference(usize, usize),
    /// An update is done, of how many.
    Update(&'a UpdateLog, usize),
}

/// A checkpoint's header: what must match, and where the run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    backbone: BackboneId,
    config: TrainConfig,
    /// Images of the training set, which tells most other sets from this one.
    images: usize,
    trainer: TrainerState,
    epoch: u64,
    /// Images of the epoch that are done.
    position: usize,
}

/// Trains in `run.folder` until `run.config.updates` are done or `stop` is set; goes on from the folder's
/// checkpoint if there is one.
///
/// # Errors
/// If the configuration does not fit the backbone, an image or file cannot be read or written, or the
/// folder's checkpoint belongs to another run.
pub fn train<B: Backbone>(
    backbone: &B,
    run: &Run<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome> {
    let Run { id, weights, config, source, device, folder } = *run;
    let mut trainer = Trainer::new(backbone, id.clone(), weights, config, &device.device()?)?;
    fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
    let checkpoint = folder.join(checkpoint::FILE);
    let (mut epoch, mut position) = (0, 0);
    if checkpoint.is_file() {
        let (saved, learner) = checkpoint::load::<Saved>(&checkpoint)?;
        check_same_run(&checkpoint, &saved, run)?;
        trainer.restore(saved.trainer, &learner)?;
        (epoch, position) = (saved.epoch, saved.position);
    }
    let mut log = RunLog::open(folder, trainer.updates_done())?;

    if trainer.needs_probes() && trainer.updates_done() < config.updates {
        let Some(probes) = probe(&trainer, source, stop, progress)? else {
            return Ok(Outcome::Interrupted);
        };
        trainer.begin(&probes);
    }
    let open = |epoch, skip| source.batches(config, epoch, skip);
    let mut epochs = Epochs::from((epoch, position), config.images_per_update, open)?;
    while trainer.updates_done() < config.updates {
        if stop.load(Ordering::Relaxed) {
            save(&trainer, run, epochs.at(), &checkpoint)?;
            return Ok(Outcome::Interrupted);
        }
        let batch = epochs.next_batch()?;
        let keys = batch.keys();
        let entry = trainer.update(images(&batch, &keys))?;
        log.write(entry.update, "train", &entry)?;
        progress(Progress::Update(&entry, config.updates));
        if trainer.updates_done() % config.checkpoint_every == 0 || trainer.updates_done() == config.updates {
            save(&trainer, run, epochs.at(), &checkpoint)?;
        }
    }
    Ok(Outcome::Finished)
}

/// How many updates the run in `folder` has done; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub fn updates_done(folder: &Path) -> Result<Option<usize>> {
    let checkpoint = folder.join(checkpoint::FILE);
    if !checkpoint.is_file() {
        return Ok(None);
    }
    Ok(Some(checkpoint::load::<Saved>(&checkpoint)?.0.trainer.update))
}

impl Source {
    fn batches(&self, config: &TrainConfig, epoch: u64, skip: usize) -> Result<Loader> {
        let options = LoaderOptions {
            batch: config.images_per_update,
            workers: self.workers,
            skip,
            limit: None,
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: None,
        };
        let order = Order::Shuffled { seed: config.seed, epoch };
        Ok(Loader::new(&self.dataset, order, &self.transform, options)?)
    }
}

fn images<'a>(batch: &'a Batch, keys: &'a [ImageKey]) -> Images<'a> {
    Images { pixels: PixelBatch::new(&batch.pixels, batch.len()), labels: &batch.labels, keys }
}

/// Probes of the reference images; `None` if stopped.
fn probe<B: Backbone>(
    trainer: &Trainer<'_, B>,
    source: &Source,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<Vec<Probe>>> {
    let wanted = trainer.config().reward.reference_images.min(source.dataset.len());
    let mut probes = Vec::with_capacity(wanted);
    for batch in source.batches(trainer.config(), u64::MAX, 0)? {
        let batch = batch?;
        let keys = batch.keys();
        probes.extend(trainer.probe(images(&batch, &keys))?);
        probes.truncate(wanted);
        progress(Progress::Reference(probes.len(), wanted));
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if probes.len() == wanted {
            break;
        }
    }
    if probes.is_empty() {
        return Err(TrainError::NoImages);
    }
    Ok(Some(probes))
}

fn save<B: Backbone>(
    trainer: &Trainer<'_, B>,
    run: &Run<'_>,
    (epoch, position): (u64, usize),
    path: &Path,
) -> Result<()> {
    let (state, learner) = trainer.state();
    let saved = Saved {
        backbone: run.id.clone(),
        config: run.config.clone(),
        images: run.source.dataset.len(),
        trainer: state.clone(),
        epoch,
        position,
    };
    checkpoint::save(path, &saved, &learner.save())?;
    trainer.policy().save(&run.folder.join("policy"))?;
    Ok(())
}

fn check_same_run(path: &Path, saved: &Saved, run: &Run<'_>) -> Result<()> {
    let what = if saved.backbone != *run.id {
        "backbone"
    } else if saved.config != *run.config {
        "configuration"
    } else if saved.images != run.source.dataset.len() {
        "training set"
    } else {
        return Ok(());
    };
    let reason = format!("belongs to a run with another {what}; give the same one, or another --out folder");
    Err(TrainError::Checkpoint { path: path.to_owned(), reason })
}
