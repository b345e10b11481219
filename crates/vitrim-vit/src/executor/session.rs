//! What a session runs on: its threads, and whether idle threads spin or sleep.

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
    /// The threads that passes run on.
    pub threads: Threads,
    /// The longest time for which the other threads spin while one thread takes a step that is too short to be
    /// shared, such as a pruner's decision for a single image. Without spinning they fall asleep and have to be woken
    /// for the next block. Zero: they sleep. They also sleep if there are more threads than processors that the
    /// process may use at once ([`available_parallelism`]: its affinity, and a cgroup's quota, `cpu.max` or
    /// `cpu.cfs_quota_us`), because spinning would then take time from the work.
    pub spin: Duration,
}

impl SessionOptions {
    /// Longer than the decision for an image of up to 577 tokens: 0.15 ms for 197 tokens of 384 channels, 1.1 ms for
    /// 577 of 1024, on one AVX-512 core. After longer decisions, the cost of waking a thread is small in comparison.
    const SPIN: Duration = Duration::from_micros(2_000);

    /// Options of one of several sessions that share `threads`. Idle threads sleep, because spinning could take time
    /// from another session.
    pub fn sharing(threads: &Threads) -> Self {
        SessionOptions { threads: threads.clone(), spin: Duration::ZERO }
    }
}

impl Default for SessionOptions {
    /// Options for a single stream of passes with the lowest latency: the caller's threads, which spin.
    fn default() -> Self {
        SessionOptions { threads: Threads::of_caller(), spin: Self::SPIN }
    }
}

/// The threads of a session. A clone refers to the same threads.
#[derive(Clone, Default)]
pub struct Threads(Option<Arc<ThreadPool>>);

impl Threads {
    /// The rayon pool from which a pass is started; outside any pool, the global one.
    pub fn of_caller() -> Self {
        Threads(None)
    }

    /// A pool of `count` threads; with a `count` of 0, one per processor that the process may use. The pool ends with
    /// its last session.
    ///
    /// # Errors
    /// [`VitError::Threads`] if the threads cannot be started.
    pub fn pool(count: usize) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("vitrim-{i}")).build();
        Ok(Threads(Some(Arc::new(
            pool.map_err(|error| VitError::Threads { count, reason: error.to_string() })?,
        ))))
    }

    /// Runs `pass` on one of these threads. Inside the pool, every parallel step then runs without a hand-over from
    /// outside.
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
    /// Threads that can run at the same time.
    processors: usize,
}

impl Spinning {
    /// Threads spin for at most `limit`.
    pub fn new(limit: Duration) -> Self {
        Spinning { limit, processors: available_parallelism().map_or(1, usize::from) }
    }

    /// Whether the other threads of a pool of `threads` may spin.
    fn pays(&self, threads: usize) -> bool {
        !self.limit.is_zero() && (2..=self.processors).contains(&threads)
    }

    /// Runs `step` on this thread. The other threads of the pool look for work meanwhile, and do the work that they
    /// find.
    pub fn during<T>(&self, step: impl FnOnce() -> T) -> T {
        let threads = rayon::current_num_threads();
        if !self.pays(threads) || rayon::current_thread_index().is_none() {
            return step();
        }
        let done = Done::default();
        let until = Instant::now() + self.limit;
        for _ in 1..threads {
            // No thread waits for a spinning one: if it finds other work, or starts late, it delays no other.
            let done = Arc::clone(&done.0);
            rayon::spawn(move || spin(&done, until));
        }
        step()
    }
}

/// Looks for work, and does it, until the step is `done` or the time is over.
fn spin(done: &AtomicBool, until: Instant) {
    while !done.load(Ordering::Relaxed) && Instant::now() < until {
        if rayon::yield_now() != Some(Yield::Executed) {
            hint::spin_loop();
        }
    }
}

/// Signals that a step has ended, also when it panics.
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

    /// Threads that spin do the work that they find: eight steps of 20 ms each, which only wait, on two threads. If
    /// each step blocked a thread for its whole time, they would take 160 ms.
    #[test]
    fn steps_of_several_sessions_run_side_by_side() {
        let pool = Threads::pool(2).unwrap();
        let spinning = spinning(2);
        let mut rounds = (0..20).map(|_| {
            let started = Instant::now();
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        pool.enter(|| spinning.during(|| thread::sleep(Duration::from_millis(20))))
                    });
                }
            });
            started.elapsed()
        });
        assert!(
            rounds.any(|took| took < Duration::from_millis(130)),
            "no round of 80 ms took less than 130 ms"
        );
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
