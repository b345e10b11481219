//! Progress of long work, and requests to stop it.

use std::sync::atomic::{AtomicBool, Ordering};

use vitrim_vit::VitError;

use crate::error::{MeasureError, Result};
use crate::images::OnProgress;

/// The progress of one piece of work.
pub struct Progress<'a> {
    /// Set to stop the work.
    pub stop: &'a AtomicBool,
    /// Called with (images done, all images).
    pub progress: OnProgress<'a>,
}

impl Progress<'_> {
    /// Reports that `done` of `all` images are done.
    ///
    /// # Errors
    /// [`MeasureError::Interrupted`] if the work was asked to stop.
    pub fn at(&mut self, done: usize, all: usize) -> Result<()> {
        (self.progress)(done, all);
        if self.stop.load(Ordering::Relaxed) { Err(MeasureError::Interrupted) } else { Ok(()) }
    }

    /// [`Progress::at`] as a callback of a search.
    pub fn tell(&mut self) -> impl FnMut(usize, usize) -> vitrim_prune::Result<()> + '_ {
        |done, all| self.at(done, all).map_err(|_| VitError::Interrupted.into())
    }

    /// A callback of a search that reports nothing: this is the progress of another task.
    ///
    /// # Errors
    /// The callback's: [`VitError::Interrupted`] if the work was asked to stop.
    pub fn quiet(&self) -> impl FnMut(usize, usize) -> vitrim_prune::Result<()> + use<'_> {
        |_, _| if self.stop.load(Ordering::Relaxed) { Err(VitError::Interrupted.into()) } else { Ok(()) }
    }
}

/// A progress event of a request.
pub enum Event<'a> {
    /// A line of text for the user.
    Note(&'a str),
    /// Progress of a task.
    Step {
        /// Name of the task.
        what: &'static str,
        /// Units done.
        done: usize,
        /// Units in all.
        all: usize,
    },
    /// Progress of a training run, with an entry of its log.
    Entry {
        /// The unit: updates or steps.
        unit: &'static str,
        /// Units done.
        done: usize,
        /// Units in all.
        all: usize,
        /// The figures as text.
        line: &'a str,
        /// The figures as a JSON object.
        figures: &'a serde_json::Value,
        /// Whether the entry has a measurement on held-out images.
        evaluated: bool,
    },
}

/// Follows a request while it runs, and can stop it.
pub struct Listener<'a> {
    /// Set to stop the work.
    pub stop: &'a AtomicBool,
    /// Called with each event.
    pub tell: &'a mut (dyn FnMut(Event<'_>) + Send),
}

impl Listener<'_> {
    /// Reports a line of text.
    pub fn note(&mut self, line: &str) {
        (self.tell)(Event::Note(line));
    }

    /// A callback that reports progress of the task `what`, of the type [`OnProgress`].
    pub fn steps(&mut self, what: &'static str) -> impl FnMut(usize, usize) + '_ {
        move |done, all| (self.tell)(Event::Step { what, done, all })
    }

    /// Runs `work`, a task called `what`, with progress reported to this listener.
    ///
    /// # Errors
    /// Errors of `work`.
    pub fn follow<T, E>(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Progress<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let stop = self.stop;
        work(&mut Progress { stop, progress: &mut self.steps(what) })
    }
}
