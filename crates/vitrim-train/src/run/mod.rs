//! A resumable run of any learner: a locked folder, a checkpoint from which it continues bit for bit, a log, and an
//! end on request.
//!
//! The folder holds `config.toml` (written by the caller), `log.jsonl`, TensorBoard event files,
//! `checkpoint.safetensors`, and the learner's results, usable at any time: `policy/`, `model/`.

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
use vitrim_ranks::Ranks;

pub(crate) use epochs::{EpochPosition, Feed, Shared};
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

/// An event of a run whose log entries are `E`.
pub enum RunEvent<'a, E> {
    /// Work before the first step.
    Preparing {
        /// What is done.
        what: &'static str,
        /// Images or steps that are done.
        done: usize,
        /// Images or steps in all.
        all: usize,
    },
    /// An entry was logged; the second value is the number of steps of the whole run.
    Entry(&'a E, usize),
}

/// Callback for the events of a run.
pub(crate) type Tell<'a, E> = &'a mut dyn FnMut(RunEvent<'_, E>);

/// A checkpoint's header: the identity of the run, which must be the same when it is resumed, and its state.
pub(crate) trait Header: Serialize + DeserializeOwned {
    /// Steps done.
    fn steps_done(&self) -> usize;

    /// Name of the first difference to the run of `other` ("configuration", "training set"); `None` if it is the same
    /// run, which can then be resumed from this checkpoint.
    fn difference(&self, other: &Self) -> Option<&'static str>;
}

/// A learner that makes one step for each batch of images.
pub(crate) trait Resumable {
    /// Its checkpoint's header.
    type Header: Header;
    /// A line of its log.
    type Entry: Serialize;
    /// Prefix of an entry's metrics in TensorBoard.
    const TAG: &'static str;

    /// Steps of the whole run.
    fn steps(&self) -> usize;

    /// Steps done.
    fn steps_done(&self) -> usize;

    /// Steps between two log entries; the last step has one as well.
    fn log_every(&self) -> usize;

    /// The header of a checkpoint of the current state, at position `at` in the images of each feed.
    fn header(&self, at: &[EpochPosition]) -> Self::Header;

    /// The tensors of a checkpoint.
    fn tensors(&self) -> Vec<NamedTensor>;

    /// Restores the state of a checkpoint of the same run; returns its position in the images of each feed.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    fn restore(&mut self, header: Self::Header, tensors: &[NamedTensor]) -> Result<Vec<EpochPosition>>;

    /// Work before the first step of this call. Returns `Interrupted` if `stop` ended it early.
    ///
    /// # Errors
    /// A read error, or an error of the backbone.
    fn prepare(&mut self, _stop: &AtomicBool, _tell: Tell<'_, Self::Entry>) -> Result<Outcome> {
        Ok(Outcome::Finished)
    }

    /// Learns from `batch`, this rank's share of one. Returns a log entry if one is due: for the steps since the last entry, which started at
    /// `since`.
    ///
    /// # Errors
    /// A read error, or an error of the backbone.
    fn step(&mut self, batch: &Batch, since: Instant) -> Result<Option<Self::Entry>>;

    /// Whether to save a checkpoint once `entry` is logged.
    fn is_due(&self, entry: &Self::Entry) -> bool;

    /// Writes the results (`policy/`, `model/`) into `folder`; called before a checkpoint is saved.
    ///
    /// # Errors
    /// If a file cannot be written.
    fn publish(&mut self, folder: &Path) -> Result<()>;
}

/// Runs `learner` in `folder` until its steps are done or `stop` is set, on any rank; continues from the folder's checkpoint
/// if there is one. The steps take their images from the `feeds` by turns. Of several ranks, the first alone reads and
/// writes the folder.
///
/// # Errors
/// If an image or file cannot be read or written, the checkpoint belongs to another run, or another rank has failed.
pub(crate) fn execute<L: Resumable>(
    learner: &mut L,
    feeds: &[Feed<'_>],
    folder: &RunFolder,
    stop: &AtomicBool,
    tell: Tell<'_, L::Entry>,
) -> Result<Outcome> {
    let ranks = feeds[0].ranks;
    let from = resume(learner, folder, feeds.len(), ranks)?;
    let log = || RunLog::open(folder.path(), entries(learner));
    let mut log = ranks.is_first().then(log).transpose()?;
    if learner.steps_done() < learner.steps() && learner.prepare(stop, tell)? == Outcome::Interrupted {
        return Ok(Outcome::Interrupted);
    }
    let mut epochs =
        feeds.iter().zip(from).map(|(feed, at)| Epochs::from(feed, at)).collect::<Result<Vec<_>>>()?;
    let at = |epochs: &[Epochs<'_>]| epochs.iter().map(Epochs::at).collect::<Vec<_>>();
    let mut since = Instant::now();
    while learner.steps_done() < learner.steps() {
        if ranks.any(stop.load(Ordering::Relaxed))? {
            if ranks.is_first() {
                save(learner, folder, &at(&epochs))?;
            }
            return Ok(Outcome::Interrupted);
        }
        let turn = learner.steps_done() % feeds.len();
        let batch = epochs[turn].next_batch()?;
        let Some(entry) = learner.step(&batch, since)? else { continue };
        if let Some(log) = &mut log {
            log.write(learner.steps_done(), L::TAG, &entry)?;
        }
        tell(RunEvent::Entry(&entry, learner.steps()));
        if learner.is_due(&entry) && ranks.is_first() {
            save(learner, folder, &at(&epochs))?;
        }
        since = Instant::now();
    }
    Ok(Outcome::Finished)
}

/// Steps that the run in `folder` has saved, whose checkpoints have a header `H`; `None` if it has no checkpoint.
///
/// # Errors
/// If its checkpoint is damaged.
pub(crate) fn steps_done<H: Header>(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join(checkpoint::FILE);
    let header = |bytes: Vec<u8>| checkpoint::parse::<H>(&path, &bytes).map(|(header, _)| header);
    Ok(checkpoint::read(&path)?.map(header).transpose()?.map(|header| header.steps_done()))
}

/// Restores the folder's checkpoint, as rank 0 has it, if there is one; returns the position in the images of each of
/// `feeds` feeds to continue from.
fn resume<L: Resumable>(
    learner: &mut L,
    folder: &RunFolder,
    feeds: usize,
    ranks: &Ranks,
) -> Result<Vec<EpochPosition>> {
    let start = vec![EpochPosition::default(); feeds];
    let path = folder.path().join(checkpoint::FILE);
    let read = if ranks.is_first() { checkpoint::read(&path)? } else { None };
    let Some(bytes) = ranks.from_first(|| read)? else {
        return Ok(start);
    };
    let (header, tensors) = checkpoint::parse::<L::Header>(&path, &bytes)?;
    if let Some(what) = header.difference(&learner.header(&start)) {
        let reason =
            format!("belongs to a run with another {what}; give the same one, or another --out folder");
        return Err(TrainError::Checkpoint { path, reason });
    }
    learner.restore(header, &tensors)
}

/// Number of log entries for the steps done.
fn entries(learner: &impl Resumable) -> usize {
    let (done, every) = (learner.steps_done(), learner.log_every());
    if done == learner.steps() { done.div_ceil(every) } else { done / every }
}

fn save<L: Resumable>(learner: &mut L, folder: &RunFolder, at: &[EpochPosition]) -> Result<()> {
    learner.publish(folder.path())?;
    checkpoint::save(&folder.path().join(checkpoint::FILE), &learner.header(at), &learner.tensors())
}
