//! Long work tells how far it has come, and can be ended.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{MeasureError, Result};
use crate::images::OnProgress;

/// Who watches a piece of work.
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
