//! The threads that a model computes on.

use std::process;
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::refusal::refused;

/// The process that started threads first: they do not exist in a fork of it.
static STARTED_IN: OnceLock<u32> = OnceLock::new();

/// A number of threads of its own, started by the first who computes; or those of the process, one a core.
pub struct Threads {
    own: Option<usize>,
    pool: OnceLock<Result<ThreadPool, String>>,
}

/// Threads that run.
#[derive(Clone, Copy)]
pub struct Started<'a>(Option<&'a ThreadPool>);

impl Threads {
    /// `own` threads, those of the process without.
    ///
    /// # Errors
    /// For none at all.
    pub fn new(own: Option<usize>) -> PyResult<Self> {
        if own == Some(0) {
            return Err(refused("threads must be at least 1; leave it out for one a core"));
        }
        Ok(Threads { own, pool: OnceLock::new() })
    }

    /// How many it was given of its own.
    pub fn own(&self) -> Option<usize> {
        self.own
    }

    /// How many decode; 0 for one a core.
    pub fn workers(&self) -> usize {
        self.own.unwrap_or(0)
    }

    /// Starts them, if they are not.
    ///
    /// # Errors
    /// `RuntimeError` in a fork of a process that has started some, or if they cannot be started.
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
    /// `work` on these threads. Call it with the GIL released.
    pub fn install<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}
