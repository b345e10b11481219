//! Downloads from the Hub: their notes, such as that the Hub does not answer and the cache is used, go to Python's stderr,
//! and Ctrl-C ends them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use pyo3::prelude::*;
use vitrim_hub::{DownloadEvent, Kind, is_reference, local, observe};

use crate::refusal::from_library;

/// Longest time until Ctrl-C is noticed.
const PATIENCE: Duration = Duration::from_millis(100);

/// Downloads that nobody waits for any more and that have not ended yet. Only one runs at a time.
static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

/// Writes notes of all later downloads of this process to `sys.stderr`, and ends a download that was given up.
pub fn watch() {
    observe(|event| {
        if let DownloadEvent::Note(note) = event {
            // A note that cannot be written, because there is no stderr, is not worth an exception.
            let _ = Python::attach(|py| -> PyResult<()> {
                py.import("sys")?.getattr("stderr")?.call_method1("write", (format!("{note}\n"),))?;
                Ok(())
            });
        }
        if GIVEN_UP.load(Ordering::SeqCst) > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}

/// Fetches `path`, which is opened as a `kind`, if it is a reference to the Hub; it is then opened from the cache.
///
/// # Errors
/// As [`local`]; `KeyboardInterrupt` after Ctrl-C, with what came kept in the cache.
pub fn fetch(py: Python<'_>, path: &Path, kind: Kind) -> PyResult<()> {
    if !is_reference(path) {
        return Ok(());
    }
    // Without room, so that an answer is either taken or refused.
    let (sender, answers) = bounded(0);
    let path = path.to_owned();
    // Not joined after Ctrl-C: a server that does not answer holds it for a minute.
    thread::spawn(move || {
        let fetched = local(&path, kind).map(drop);
        if sender.send(fetched).is_err() {
            GIVEN_UP.fetch_sub(1, Ordering::SeqCst);
        }
    });
    loop {
        match py.detach(|| answers.recv_timeout(PATIENCE)) {
            Ok(fetched) => return fetched.map_err(from_library),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the thread answers before it ends"),
        }
        if let Err(raised) = py.check_signals() {
            GIVEN_UP.fetch_add(1, Ordering::SeqCst);
            return Err(raised);
        }
    }
}
