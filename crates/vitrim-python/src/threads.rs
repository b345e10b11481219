//! The threads that a model computes on.

use std::process;
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::refusal::refused;

/// The process that first started threads: they do not exist in a fork of it.
static STARTED_IN: OnceLock<u32> = OnceLock::new();

/// A pool of threads, started by the first computation; or the process's threads, one per core.
pub struct Threads {
    own: Option<usize>,
    pool: OnceLock<Result<ThreadPool, String>>,
}

/// Running threads.
#[derive(Clone, Copy)]
pub struct Started<'a>(Option<&'a ThreadPool>);

impl Threads {
    /// A pool of `own` threads; with `None`, the threads of the process.
    ///
    /// # Errors
    /// If `own` is 0.
    pub fn new(own: Option<usize>) -> PyResult<Self> {
        if own == Some(0) {
            return Err(refused("threads must be at least 1; leave it out for one a core"));
        }
        Ok(Threads { own, pool: OnceLock::new() })
    }

    /// Size of the own pool, if there is one.
    pub fn own(&self) -> Option<usize> {
        self.own
    }

    /// Number of decoding threads; 0 for one per core.
    pub fn workers(&self) -> usize {
        self.own.unwrap_or(0)
    }

    /// Starts the threads, if they are not running.
    ///
    /// # Errors
    /// `RuntimeError` in a fork of a process that has started threads, or if they cannot be started.
    pub fn started(&self) -> PyResult<Started<'_>> {
        let here = process::id();
        if *STARTED_IN.get_or_init(|| here) != here {
            return Err(PyRuntimeError::new_err(
                "this process was forked from one in which vitrim had started its threads, which a fork does not \
                 have; start processes by multiprocessing's 'spawn' or 'forkserver'",
            ));
        }
        let Some(own) = self.own else { return Ok(Started(None)) };
        let pool = self.pool.get_or_init(|| {
            ThreadPoolBuilder::new().num_threads(own).build().map_err(|error| error.to_string())
        });
        match pool {
            Ok(pool) => Ok(Started(Some(pool))),
            Err(reason) => Err(PyRuntimeError::new_err(format!(
                "threads={own}: the threads cannot be started ({reason})"
            ))),
        }
    }
}

impl Started<'_> {
    /// Runs `work` on these threads. Call it with the GIL released.
    pub fn install<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}
