//! Threads of one process as ranks: for tests, which need no MPI.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{Link, Ranks};

type Gathered = Arc<Vec<(u8, Vec<u8>)>>;

/// What the threads share.
struct Table {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What each thread has given to the current gathering.
    given: Vec<Option<(u8, Vec<u8>)>>,
    /// The gathering that is complete, until every thread has taken it.
    complete: Option<Gathered>,
    taken: usize,
}

struct Seat {
    rank: usize,
    table: Arc<Table>,
}

/// `size` ranks, one for each thread that is to be one.
pub fn ranks(size: usize) -> Vec<Ranks> {
    let given = (0..size).map(|_| None).collect();
    let state = Mutex::new(State { given, ..State::default() });
    let table = Arc::new(Table { size, state, changed: Condvar::new() });
    (0..size).map(|rank| Ranks::over(Arc::new(Seat { rank, table: Arc::clone(&table) }))).collect()
}

impl Link for Seat {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.size
    }

    fn gather(&self, note: u8, bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, String> {
        let Table { size, state, changed } = &*self.table;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        // A slow thread may not yet have taken the gathering before.
        while state.complete.is_some() {
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.given[self.rank] = Some((note, bytes.to_vec()));
        if state.given.iter().all(Option::is_some) {
            state.complete = Some(Arc::new(state.given.iter_mut().filter_map(Option::take).collect()));
            changed.notify_all();
        }
        let gathered = loop {
            match &state.complete {
                Some(gathered) => break Arc::clone(gathered),
                None => state = changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.taken += 1;
        if state.taken == *size {
            (state.complete, state.taken) = (None, 0);
            changed.notify_all();
        }
        Ok(gathered.to_vec())
    }
}
