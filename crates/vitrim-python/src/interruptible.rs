//! Runs work on other threads, while the calling thread checks for Ctrl-C and, for long jobs, reports progress to Python.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded, unbounded};
use pyo3::prelude::*;
use rayon::ThreadPool;
use serde_json::Value;
use vitrim::VitrimError as LibraryError;
use vitrim_measure::Listener;
use vitrim_measure::progress::Event;

use crate::plain::plain;
use crate::refusal::from_library;

/// Longest time until Ctrl-C is noticed.
const PATIENCE: Duration = Duration::from_millis(100);

/// A progress event, sent to the thread that calls Python.
enum Told {
    Note(String),
    Step { what: &'static str, done: usize, all: usize },
    Entry { unit: &'static str, done: usize, all: usize, line: String, figures: Value },
}

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Note(line) => Told::Note(line.to_owned()),
            Event::Step { what, done, all } => Told::Step { what, done, all },
            Event::Entry { unit, done, all, line, figures, .. } => {
                Told::Entry { unit, done, all, line: line.to_owned(), figures: figures.clone() }
            }
        }
    }
}

impl Told {
    /// Passes the event to `teller`, a `vitrim.progress.Teller`.
    fn tell(self, teller: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Told::Note(line) => teller.call_method1("note", (line,)),
            Told::Step { what, done, all } => teller.call_method1("step", (what, done, all)),
            Told::Entry { unit, done, all, line, figures } => {
                let figures = plain(teller.py(), &figures)?;
                teller.call_method1("entry", (unit, done, all, line, figures))
            }
        }
        .map(|_| ())
    }
}

/// Runs `work` on a thread of its own with the GIL released, and passes its progress to `teller`. Ctrl-C, or an exception that `teller`
/// raises, sets the listener's flag, waits for the work to stop at a safe point, and is then raised.
///
/// # Errors
/// That exception, or an error of `work`.
pub fn interruptible<T: Send>(
    teller: &Bound<'_, PyAny>,
    work: impl FnOnce(&mut Listener<'_>) -> vitrim::Result<T> + Send,
) -> PyResult<T> {
    let py = teller.py();
    let stop = AtomicBool::new(false);
    let (sender, events) = unbounded();
    let mut raised: Option<PyErr> = None;
    let done = thread::scope(|scope| {
        let stop = &stop;
        let worker = scope.spawn(move || {
            // There is no receiver only while the calling thread is unwinding.
            let send = |told: Told| drop(sender.send(told));
            let done = work(&mut Listener { stop, tell: &mut |event| send(event.into()) });
            if let Err(LibraryError::Interrupted(saved)) = &done {
                send(Told::Note(format!("interrupted: {saved}; the same call goes on")));
            }
            done
        });
        loop {
            let told = match py.detach(|| events.recv_timeout(PATIENCE)) {
                Ok(told) => told.tell(teller),
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

/// Runs `work` on the threads of `pool` with the GIL released, while the calling thread checks for Ctrl-C, which sets the
/// flag that `work` gets.
///
/// # Errors
/// `KeyboardInterrupt`, or an error of `work`.
pub fn computed<T: Send>(
    py: Python<'_>,
    pool: &ThreadPool,
    work: impl FnOnce(&AtomicBool) -> vitrim::Result<T> + Send,
) -> PyResult<T> {
    let stop = AtomicBool::new(false);
    let (sender, answers) = bounded(1);
    let mut raised: Option<PyErr> = None;
    let done = pool.in_place_scope(|scope| {
        let stop = &stop;
        // There is no receiver only while the calling thread is unwinding.
        scope.spawn(move |_| drop(sender.send(work(stop))));
        loop {
            match py.detach(|| answers.recv_timeout(PATIENCE)) {
                Ok(done) => return Some(done),
                // The work panicked, and the scope passes that on.
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Err(error) = py.check_signals() {
                stop.store(true, Ordering::Relaxed);
                raised.get_or_insert(error);
            }
        }
    });
    match raised {
        Some(error) => Err(error),
        None => done.expect("work that does not panic answers").map_err(from_library),
    }
}
