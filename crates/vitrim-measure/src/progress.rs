//! Long work tells how far it has come, and can be ended.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{MeasureError, Result};
use crate::images::OnProgress;

/// The progress of one piece of work.
pub struct Progress<'a> {
    /// Set to end the work.
    pub stop: &'a AtomicBool,
    /// Told (images done, all images).
    pub progress: OnProgress<'a>,
}

impl Progress<'_> {
    /// `done` of `all` images are done.
    ///
    /// # Errors
    /// [`MeasureError::Interrupted`] if the work shall end.
    pub fn at(&mut self, done: usize, all: usize) -> Result<()> {
        (self.progress)(done, all);
        if self.stop.load(Ordering::Relaxed) { Err(MeasureError::Interrupted) } else { Ok(()) }
    }
}

/// What is told while a request is carried out.
pub enum Event<'a> {
    /// A line for the user.
    Note(&'a str),
    /// So much of something is done.
    Step {
        /// Of what.
        what: &'static str,
        /// Done.
        done: usize,
        /// Of how many.
        all: usize,
    },
    /// So much of a run is done, with the entry of its log.
    Entry {
        /// Counted in updates or steps.
        unit: &'static str,
        /// Done.
        done: usize,
        /// Of how many.
        all: usize,
        /// The figures in words.
        line: &'a str,
        /// The figures, a JSON object.
        figures: &'a serde_json::Value,
        /// Whether held-out images were measured for it.
        evaluated: bool,
    },
}

/// Who follows a request while it is carried out.
pub struct Listener<'a> {
    /// Set to end the work.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub tell: &'a mut (dyn FnMut(Event<'_>) + Send),
}

impl Listener<'_> {
    /// A line for the user.
    pub fn note(&mut self, line: &str) {
        (self.tell)(Event::Note(line));
    }

    /// How far `what` has come, as [`OnProgress`] is told it.
    pub fn steps(&mut self, what: &'static str) -> impl FnMut(usize, usize) + '_ {
        move |done, all| (self.tell)(Event::Step { what, done, all })
    }

    /// Does `work`, called `what`, under this listener's eyes.
    ///
    /// # Errors
    /// What `work` refuses.
    pub fn follow<T, E>(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Progress<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let stop = self.stop;
        work(&mut Progress { stop, progress: &mut self.steps(what) })
    }
}
