//! Long work on a thread of its own, while the calling one tells Python of it and listens for Ctrl-C.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use pyo3::prelude::*;
use serde_json::Value;

use crate::plain::plain;
use crate::refusal::from_library;

/// Time after which Ctrl-C is heard at the latest.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is told while work goes on.
pub enum Event {
    /// A line.
    Note(String),
    /// So much of something is done.
    Step {
        /// Of what.
        what: &'static str,
        /// Done.
        done: usize,
        /// Of how many.
        all: usize,
    },
    /// So much of a run is done.
    Entry {
        /// Counted in updates or steps.
        unit: &'static str,
        /// Done.
        done: usize,
        /// Of how many.
        all: usize,
        /// The figures in words.
        line: String,
        /// The figures, a JSON object.
        figures: Value,
    },
}

impl Event {
    /// Hands it to `teller`, a `vitrim.progress.Teller`.
    fn tell(self, teller: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Event::Note(line) => teller.call_method1("note", (line,)),
            Event::Step { what, done, all } => teller.call_method1("step", (what, done, all)),
            Event::Entry { unit, done, all, line, figures } => {
                let figures = plain(teller.py(), &figures)?;
                teller.call_method1("entry", (unit, done, all, line, figures))
            }
        }
        .map(|_| ())
    }
}

/// Does `work` with the GIL released, handing what it sends to `teller`. Ctrl-C, or an exception that `teller` raises,
/// sets the flag that `work` is given, waits for it to end at a good place, and is raised then.
///
/// # Errors
/// That exception, or what `work` refuses.
pub fn interruptible<T: Send>(
    teller: &Bound<'_, PyAny>,
    work: impl FnOnce(&AtomicBool, &Sender<Event>) -> vitrim::Result<T> + Send,
) -> PyResult<T> {
    watched(teller.py(), work, |event| event.tell(teller))
}

/// As [`interruptible`], of work that tells nothing.
///
/// # Errors
/// `KeyboardInterrupt`, or what `work` refuses.
pub fn interruptible_quietly<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> vitrim::Result<T> + Send,
) -> PyResult<T> {
    watched(py, |stop, _| work(stop), |_| Ok(()))
}

/// Does `work` on a thread of its own; this one hands its events to `tell` and listens for Ctrl-C.
fn watched<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool, &Sender<Event>) -> vitrim::Result<T> + Send,
    tell: impl Fn(Event) -> PyResult<()>,
) -> PyResult<T> {
    let stop = AtomicBool::new(false);
    let (sender, events) = unbounded();
    let mut raised: Option<PyErr> = None;
    let done = thread::scope(|scope| {
        let stop = &stop;
        let worker = scope.spawn(move || work(stop, &sender));
        loop {
            let told = match py.detach(|| events.recv_timeout(PATIENCE)) {
                Ok(event) => tell(event),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = told.and_then(|()| py.check_signals()) {
                stop.store(true, Ordering::Relaxed);
                raised.get_or_insert(error);
            }
        }
        py.detach(|| worker.join())
    });
    let done = done.unwrap_or_else(|panic| resume_unwind(panic));
    match raised {
        Some(error) => Err(error),
        None => done.map_err(from_library),
    }
}

/// Sends `event` to whoever still listens.
pub fn send(events: &Sender<Event>, event: Event) {
    // Nobody listens only when the calling thread is unwinding.
    let _ = events.send(event);
}

/// How far `what` has come, as the library tells it.
pub fn steps<'a>(events: &'a Sender<Event>, what: &'static str) -> impl FnMut(usize, usize) + 'a {
    move |done, all| send(events, Event::Step { what, done, all })
}
