//! Buffers that a session's passes work in, one after the other.
//!
//! A part of a batch that is carried through blocks holds a [`Scratch`] meanwhile, of a size that its rows decide: those of
//! [`PART_ROWS`](super::part::PART_ROWS), or of one image, where that is more. A large batch on many threads has many
//! parts on their way at once, and so leaves many buffers behind; what none of the next [`PATIENCE`] steps needs is freed.
//! Steady passes of one size allocate nothing.
//!
//! The rows of a chunk, of which there are at most `ROW_CHUNK`, lie in buffers of the thread that computes them, and so in its
//! cache; they end with the thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vitrim_kernels::LineBuffer;

/// Steps after which a buffer that none of them needed is freed. A pruned pass has one more step than stages.
pub(super) const PATIENCE: usize = 256;

/// What one part of a batch is carried through blocks in.
#[derive(Default)]
pub(super) struct Scratch {
    /// Queries, keys and values.
    pub qkv: LineBuffer,
    /// What attention made of them.
    pub attended: LineBuffer,
}

/// The scratch that is not in use.
#[derive(Default)]
pub(super) struct ScratchPool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// Steps that have ended.
    steps: usize,
    /// With the step in which it was given back: the latest last.
    scratch: Vec<(usize, Scratch)>,
}

impl ScratchPool {
    /// The scratch that was given back last, else a new one.
    pub fn take(&self) -> Scratch {
        self.lock().scratch.pop().map(|(_, scratch)| scratch).unwrap_or_default()
    }

    /// Gives it back.
    pub fn put(&self, scratch: Scratch) {
        let mut idle = self.lock();
        let step = idle.steps;
        idle.scratch.push((step, scratch));
    }

    /// A step has ended. Frees what has not been in use for [`PATIENCE`] steps.
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

        /// `parts` side by side.
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
