//! The threads that models compute on. A fork has none of its parent's threads, and starts its own.

use std::mem::forget;
use std::process;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::refusal::refused;

/// One thread per core, for all models without threads of their own. Not rayon's global pool: that one can be started
/// only once, and a fork could not replace it.
static SHARED: Slot = Slot(RwLock::new(None));

/// The process that first trained or measured: libraries then start threads that a fork of it cannot replace.
static FIRST_JOB_IN: OnceLock<u32> = OnceLock::new();

/// A pool, and the process that started its threads.
struct Started {
    process: u32,
    pool: Arc<ThreadPool>,
}

/// A pool that is started by the first computation, and again in each fork.
struct Slot(RwLock<Option<Started>>);

impl Slot {
    /// The pool of this process, of `count` threads; with a `count` of 0, one per core.
    fn pool(&self, count: usize) -> PyResult<Arc<ThreadPool>> {
        let here = process::id();
        let of_here = |started: &Option<Started>| {
            started
                .as_ref()
                .filter(|started| started.process == here)
                .map(|started| Arc::clone(&started.pool))
        };
        if let Some(pool) = of_here(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(pool);
        }
        let mut started = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = of_here(&started) {
            return Ok(pool);
        }
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("vitrim-{i}")).build();
        let pool = pool.map_err(|error| {
            PyRuntimeError::new_err(format!("threads={count}: the threads cannot be started ({error})"))
        })?;
        let pool = Arc::new(pool);
        // The end of the parent's pool would wait for threads that are not here.
        forget(started.replace(Started { process: here, pool: Arc::clone(&pool) }));
        Ok(pool)
    }
}

/// The threads of a model: its own, or those of the process.
pub struct Threads {
    own: Option<usize>,
    slot: Slot,
}

impl Threads {
    /// `own` threads; with `None`, the threads of the process.
    ///
    /// # Errors
    /// If `own` is 0.
    pub fn new(own: Option<usize>) -> PyResult<Self> {
        if own == Some(0) {
            return Err(refused("threads must be at least 1; leave it out for one a core"));
        }
        Ok(Threads { own, slot: Slot(RwLock::new(None)) })
    }

    /// As many threads as these, to be started by their own first computation.
    pub fn alike(&self) -> Self {
        Threads { own: self.own, slot: Slot(RwLock::new(None)) }
    }

    /// Number of own threads, if there are any.
    pub fn own(&self) -> Option<usize> {
        self.own
    }

    /// Number of decoding threads; 0 for one per core.
    pub fn workers(&self) -> usize {
        self.own.unwrap_or(0)
    }

    /// The pool to compute on, started if this process has none.
    ///
    /// # Errors
    /// `RuntimeError` if the threads cannot be started.
    pub fn pool(&self) -> PyResult<Arc<ThreadPool>> {
        match self.own {
            Some(count) => self.slot.pool(count),
            None => shared_pool(),
        }
    }

    /// The threads for training or measuring.
    ///
    /// # Errors
    /// `RuntimeError` in a fork of a process that has trained or measured, or if the threads cannot be started.
    pub fn for_job(&self) -> PyResult<JobThreads> {
        let here = process::id();
        if *FIRST_JOB_IN.get_or_init(|| here) != here {
            return Err(PyRuntimeError::new_err(
                "this process was forked from one in which vitrim had trained or measured, with threads that a fork \
                 does not have; start processes by multiprocessing's 'spawn' or 'forkserver'",
            ));
        }
        Ok(JobThreads(self.own.map(|_| self.pool()).transpose()?))
    }
}

/// The threads of the process.
///
/// # Errors
/// `RuntimeError` if they cannot be started.
pub fn shared_pool() -> PyResult<Arc<ThreadPool>> {
    SHARED.pool(0)
}

/// The threads of a job: a model's own, or rayon's global ones.
pub struct JobThreads(Option<Arc<ThreadPool>>);

impl JobThreads {
    /// Runs `work` on these threads. Call it with the GIL released.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}
