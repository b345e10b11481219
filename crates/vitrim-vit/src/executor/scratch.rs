//! Buffers for the passes of a session.
//!
//! A part of a batch that is carried through blocks holds one [`Scratch`]. Its size depends on the number of rows: at
//! most [`PART_ROWS`](super::part::PART_ROWS), or one image if that has more. A large batch on many threads has many
//! parts at once, and leaves as many buffers. A buffer that none of the next [`PATIENCE`] steps needs is freed.
//! Steady passes of one size allocate nothing.
//!
//! The rows of a chunk, at most `ROW_CHUNK`, lie in buffers of the thread that computes them, and so in its cache.
//! These buffers are freed when the thread ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vitrim_kernels::LineBuffer;

/// A buffer is freed after so many steps without use. A pruned pass has one more step than stages.
pub(super) const PATIENCE: usize = 256;

/// The buffers for one part of a batch.
#[derive(Default)]
pub(super) struct Scratch {
    /// Queries, keys and values.
    pub qkv: LineBuffer,
    /// Output of attention.
    pub attended: LineBuffer,
}

/// The scratch buffers that are not in use.
#[derive(Default)]
pub(super) struct ScratchPool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// Steps that have ended.
    steps: usize,
    /// Idle buffers, each with the step in which it was returned; the latest is last.
    scratch: Vec<(usize, Scratch)>,
}

impl ScratchPool {
    /// The buffers that were returned last, or new ones.
    pub fn take(&self) -> Scratch {
        self.lock().scratch.pop().map(|(_, scratch)| scratch).unwrap_or_default()
    }

    /// Returns buffers.
    pub fn put(&self, scratch: Scratch) {
        let mut idle = self.lock();
        let step = idle.steps;
        idle.scratch.push((step, scratch));
    }

    /// Ends a step. Frees the buffers that were not in use for [`PATIENCE`] steps.
    pub fn end_step(&self) {
        let mut idle = self.lock();
        idle.steps += 1;
        let now = idle.steps;
        let stale = idle.scratch.partition_point(|(step, _)| step + PATIENCE < now);
        idle.scratch.drain(..stale);
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ScratchPool {
        fn held(&self) -> usize {
            self.lock().scratch.len()
        }

        /// A step with `parts` parts at once.
        fn step(&self, parts: usize) {
            let scratch: Vec<Scratch> = (0..parts).map(|_| self.take()).collect();
            scratch.into_iter().for_each(|scratch| self.put(scratch));
            self.end_step();
        }
    }

    #[test]
    fn what_a_large_batch_needed_is_freed() {
        let pool = ScratchPool::default();
        pool.step(9);
        (1..PATIENCE).for_each(|_| pool.step(2));
        assert_eq!(pool.held(), 9, "a large batch may come again");
        pool.step(2);
        assert_eq!(pool.held(), 2);
        (0..3 * PATIENCE).for_each(|_| pool.step(2));
        assert_eq!(pool.held(), 2, "what is in use stays");
    }

    #[test]
    fn what_is_needed_now_and_then_stays() {
        let pool = ScratchPool::default();
        for _ in 0..5 {
            pool.step(4);
            (0..PATIENCE / 2).for_each(|_| pool.step(1));
            assert_eq!(pool.held(), 4);
        }
    }
}
