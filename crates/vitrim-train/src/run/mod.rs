//! One resumable run, whatever learns in it: a folder that is locked, a checkpoint from which it goes on bit for bit, a log,
//! and an end when it is asked to stop.
//!
//! The folder holds `config.toml` (its caller's), `log.jsonl`, TensorBoard event files, `checkpoint.safetensors`, and what
//! the learner makes, usable at any time: `policy/`, `model/`.

pub(crate) mod checkpoint;
mod epochs;
mod folder;
mod log;
pub(crate) mod tensorboard;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vitrim_data::Batch;

pub(crate) use epochs::{EpochPosition, Feed};
pub use folder::RunFolder;
pub use log::FILE as LOG_FILE;

use crate::adam::NamedTensor;
use crate::error::{Result, TrainError};
use epochs::Epochs;
use log::RunLog;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop; the checkpoint has the steps done.
    Interrupted,
}

/// What is told while a run of log entries `E` goes on.
pub enum Progress<'a, E> {
    /// Before its first step, reference images are measured: images done, of how many.
    Reference(usize, usize),
    /// An entry was logged; how many steps there will be.
    Entry(&'a E, usize),
}

/// Hears of a run's progress.
pub(crate) type Tell<'a, E> = &'a mut dyn FnMut(Progress<'_, E>);

/// A checkpoint's header: what must stay the same when the run is resumed, and where it stands.
pub(crate) trait Header: Serialize + DeserializeOwned {
    /// Steps done.
    fn steps_done(&self) -> usize;

    /// What tells the run of `other` from this one: "configuration", "training set"; `None` if it may go on from here.
    fn difference(&self, other: &Self) -> Option<&'static str>;
}

/// What learns in steps, each from a batch of images.
pub(crate) trait Resumable {
    /// Its checkpoint's header.
    type Header: Header;
    /// A line of its log.
    type Entry: Serialize;
    /// What the figures of an entry are called after in TensorBoard.
    const TAG: &'static str;

    /// Steps of the whole run.
    fn steps(&self) -> usize;

    /// Steps done.
    fn steps_done(&self) -> usize;

    /// Steps between two log entries; the last step has one as well.
    fn log_every(&self) -> usize;

    /// The header of a checkpoint as it stands, `at` that place in its images.
    fn header(&self, at: EpochPosition) -> Self::Header;

    /// The tensors of a checkpoint.
    fn tensors(&self) -> Vec<NamedTensor>;

    /// Goes to where a checkpoint of the same run stands; returns its place in the images.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    fn restore(&mut self, header: Self::Header, tensors: &[NamedTensor]) -> Result<EpochPosition>;

    /// What is to be done before the first step, or before it goes on. Whether `stop` ended it early.
    ///
    /// # Errors
    /// What cannot be read or run.
    fn prepare(&mut self, _stop: &AtomicBool, _tell: Tell<'_, Self::Entry>) -> Result<Outcome> {
        Ok(Outcome::Finished)
    }

    /// Learns from `batch`. Returns a log entry where one is due, of the steps since the last one, which began at `since`.
    ///
    /// # Errors
    /// What cannot be read or run.
    fn step(&mut self, batch: &Batch, since: Instant) -> Result<Option<Self::Entry>>;

    /// Whether to save a checkpoint once `entry` is logged.
    fn is_due(&self, entry: &Self::Entry) -> bool;

    /// Writes what others use, before a checkpoint is saved.
    ///
    /// # Errors
    /// If a file cannot be written.
    fn publish(&mut self, folder: &Path) -> Result<()>;
}

/// Runs `learner` on `feed` in `folder` until its steps are done or `stop` is set; from the folder's checkpoint on if there
/// is one.
///
/// # Errors
/// If an image or file cannot be read or written, or the checkpoint belongs to another run.
pub(crate) fn execute<L: Resumable>(
    learner: &mut L,
    feed: &Feed<'_>,
    folder: &RunFolder,
    stop: &AtomicBool,
    tell: Tell<'_, L::Entry>,
) -> Result<Outcome> {
    let from = resume(learner, folder)?;
    let mut log = RunLog::open(folder.path(), entries(learner))?;
    if learner.steps_done() < learner.steps() && learner.prepare(stop, tell)? == Outcome::Interrupted {
        return Ok(Outcome::Interrupted);
    }
    let mut epochs = Epochs::from(feed, from)?;
    let mut since = Instant::now();
    while learner.steps_done() < learner.steps() {
        if stop.load(Ordering::Relaxed) {
            save(learner, folder, epochs.at())?;
            return Ok(Outcome::Interrupted);
        }
        let batch = epochs.next_batch()?;
        let Some(entry) = learner.step(&batch, since)? else { continue };
        log.write(learner.steps_done(), L::TAG, &entry)?;
        tell(Progress::Entry(&entry, learner.steps()));
        if learner.is_due(&entry) {
            save(learner, folder, epochs.at())?;
        }
        since = Instant::now();
    }
    Ok(Outcome::Finished)
}

/// Steps that the run in `folder`, of checkpoints with a header `H`, has saved; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub(crate) fn steps_done<H: Header>(folder: &Path) -> Result<Option<usize>> {
    let saved = checkpoint::load::<H>(&folder.join(checkpoint::FILE))?;
    Ok(saved.map(|(header, _)| header.steps_done()))
}

/// Goes to the folder's checkpoint if there is one; returns the place in the images to go on from.
fn resume<L: Resumable>(learner: &mut L, folder: &RunFolder) -> Result<EpochPosition> {
    let path = folder.path().join(checkpoint::FILE);
    let Some((header, tensors)) = checkpoint::load::<L::Header>(&path)? else {
        return Ok(EpochPosition::default());
    };
    if let Some(what) = header.difference(&learner.header(EpochPosition::default())) {
        let reason =
            format!("belongs to a run with another {what}; give the same one, or another --out folder");
        return Err(TrainError::Checkpoint { path, reason });
    }
    learner.restore(header, &tensors)
}

/// Entries that the log has of the steps done.
fn entries(learner: &impl Resumable) -> usize {
    let (done, every) = (learner.steps_done(), learner.log_every());
    if done == learner.steps() { done.div_ceil(every) } else { done / every }
}

fn save<L: Resumable>(learner: &mut L, folder: &RunFolder, at: EpochPosition) -> Result<()> {
    learner.publish(folder.path())?;
    checkpoint::save(&folder.path().join(checkpoint::FILE), &learner.header(at), &learner.tensors())
}
