//! What a session runs on: threads, and whether those that have nothing to do wait awake.

use std::fmt;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

use crate::error::{Result, VitError};

/// How a [`CpuBackbone`](super::CpuBackbone) runs its passes.
///
/// ```
/// use vitrim_vit::{CpuBackbone, SessionOptions, Tensors, Threads, VitSpec};
/// let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
/// let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 0)).unwrap();
/// // A service: two threads, on which requests run side by side, over the weights that are there.
/// let pool = Threads::pool(2).unwrap();
/// let requests = [(); 8].map(|()| model.session(SessionOptions::sharing(&pool)));
/// assert!(std::ptr::eq(requests[7].weights(), model.weights()));
/// ```
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// What passes run on.
    pub threads: Threads,
    /// For how long at most the other threads spin while one of them takes a step that is too short to be shared, such as a
    /// pruner's decision about a single image; they would fall asleep, and have to be woken for the block that follows.
    /// Zero: they sleep. They also sleep where there are more threads than the process may use processors at once
    /// ([`available_parallelism`]: its affinity, and a cgroup's quota, `cpu.max` or `cpu.cfs_quota_us`): spinning would use
    /// up the time that the work needs.
    pub spin: Duration,
}

impl SessionOptions {
    /// Longer than the decision about an image of up to 577 tokens: 0.15 ms for 197 tokens of 384 channels, 1.1 ms for 577 of
    /// 1024, on one AVX-512 core. Beside longer ones, waking a thread costs little.
    const SPIN: Duration = Duration::from_micros(2_000);

    /// One of several sessions on `threads`, which sleep when they have nothing to do: whose time it is that spinning uses up,
    /// nobody knows.
    pub fn sharing(threads: &Threads) -> Self {
        SessionOptions { threads: threads.clone(), spin: Duration::ZERO }
    }
}

impl Default for SessionOptions {
    /// For a single stream of passes, each of which shall be as quick as it can: on the caller's threads, which spin.
    fn default() -> Self {
        SessionOptions { threads: Threads::of_caller(), spin: Self::SPIN }
    }
}

/// The threads of a session. A clone is the same threads.
#[derive(Clone, Default)]
pub struct Threads(Option<Arc<ThreadPool>>);

impl Threads {
    /// Those of the rayon pool that a pass is started in; the global one outside any.
    pub fn of_caller() -> Self {
        Threads(None)
    }

    /// A pool of `count` threads; one for each processor that the process may use, where `count` is 0. It ends with its last
    /// session.
    ///
    /// # Errors
    /// [`VitError::Threads`] if they cannot be started.
    pub fn pool(count: usize) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("vitrim-{i}")).build();
        Ok(Threads(Some(Arc::new(
            pool.map_err(|error| VitError::Threads { count, reason: error.to_string() })?,
        ))))
    }

    /// Runs `pass` on one of these threads. Entered once, the pool then runs every parallel step without a hand-over from
    /// outside it.
    pub(super) fn enter<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => pool.install(pass),
            None => rayon::scope(|_| pass()),
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(pool) => write!(f, "a pool of {}", pool.current_num_threads()),
            None => f.write_str("the caller's"),
        }
    }
}

/// Keeps threads awake during short steps.
#[derive(Debug)]
pub(super) struct Spinning {
    limit: Duration,
    /// Threads that can run at once.
    processors: usize,
}

impl Spinning {
    /// For at most `limit`.
    pub fn new(limit: Duration) -> Self {
        Spinning { limit, processors: available_parallelism().map_or(1, usize::from) }
    }

    /// Whether a pool of `threads` has any that may spin.
    fn pays(&self, threads: usize) -> bool {
        !self.limit.is_zero() && (2..=self.processors).contains(&threads)
    }

    /// Runs `step` on this thread. The other threads of the pool look for work meanwhile, and do what they find.
    pub fn during<T>(&self, step: impl FnOnce() -> T) -> T {
        let threads = rayon::current_num_threads();
        if !self.pays(threads) || rayon::current_thread_index().is_none() {
            return step();
        }
        let done = Done::default();
        let until = Instant::now() + self.limit;
        for _ in 1..threads {
            // Nobody waits for it: one that finds other work, or starts late, holds nobody up.
            let done = Arc::clone(&done.0);
            rayon::spawn(move || spin(&done, until));
        }
        step()
    }
}

/// Looks for work, and does it, until it is `done` or late.
fn spin(done: &AtomicBool, until: Instant) {
    while !done.load(Ordering::Relaxed) && Instant::now() < until {
        if rayon::yield_now() != Some(Yield::Executed) {
            hint::spin_loop();
        }
    }
}

/// Says that a step is over, however it ends.
#[derive(Default)]
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn spinning(threads: usize) -> Spinning {
        Spinning { limit: Duration::from_secs(3600), processors: threads }
    }

    #[test]
    fn threads_spin_no_longer_than_the_step_takes() {
        for threads in 1..4 {
            let (exit, exits) = mpsc::channel();
            let pool = ThreadPoolBuilder::new().num_threads(threads).exit_handler(move |_| {
                exit.send(()).unwrap();
            });
            let pool = pool.build().unwrap();
            assert_eq!(pool.install(|| spinning(threads).during(|| 7)), 7);
            let step =
                AssertUnwindSafe(|| pool.install(|| spinning(threads).during(|| panic!("in the step"))));
            assert!(catch_unwind(step).is_err(), "it comes back, and says so");
            drop(pool);
            (0..threads)
                .for_each(|_| exits.recv_timeout(Duration::from_secs(60)).expect("no thread spins on"));
        }
    }

    #[test]
    fn threads_spin_no_longer_than_the_limit() {
        spin(&AtomicBool::new(false), Instant::now() + Duration::from_millis(1));
        spin(&AtomicBool::new(true), Instant::now() + Duration::from_secs(3600));
    }

    /// What a thread that spins finds, it does: eight steps of 20 ms each, which only wait, on two threads. A thread that were
    /// lost to each of them while it lasts would make it 160 ms.
    #[test]
    fn steps_of_several_sessions_run_side_by_side() {
        let pool = Threads::pool(2).unwrap();
        let spinning = spinning(2);
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| pool.enter(|| spinning.during(|| thread::sleep(Duration::from_millis(20)))));
            }
        });
        let took = started.elapsed();
        assert!(took < Duration::from_millis(130), "{took:?} for 80 ms of waiting");
    }

    #[test]
    fn nobody_spins_where_processors_are_short_or_nobody_asked() {
        assert_eq!([1, 2, 3].map(|threads| spinning(2).pays(threads)), [false, true, false]);
        assert!(!Spinning { limit: Duration::ZERO, processors: 2 }.pays(2));
        let processors = available_parallelism().unwrap().get();
        assert!(!Spinning::new(SessionOptions::SPIN).pays(processors + 1));
        let calm = SessionOptions::sharing(&Threads::of_caller());
        assert!(!Spinning::new(calm.spin).pays(processors.max(2)));
    }

    #[test]
    fn no_threads_are_as_many_as_there_are_processors() {
        let processors = available_parallelism().unwrap().get();
        assert_eq!(Threads::pool(0).unwrap().enter(rayon::current_num_threads), processors);
        assert_eq!(Threads::pool(3).unwrap().enter(rayon::current_num_threads), 3);
    }
}
