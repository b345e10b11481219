//! Several processes, the ranks, that share one piece of work, and what they tell each other.
//!
//! All ranks run the same code and differ in their number. Everything that they exchange is a gathering: each gives bytes
//! and gets those of all ranks, in order. A process on its own is rank 0 of 1, and exchanges nothing. The bytes travel over
//! a [`Link`], such as MPI's.
//!
//! Each gathering also carries how its ranks are: a rank that fails takes part in one more ([`Ranks::fail`]), from which
//! the others learn its error instead of waiting for it. Every rank therefore ends with a gathering, [`Ranks::end`].

pub mod threads;
mod wire;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use wire::{Damaged, Wire};

/// Carries bytes between processes.
pub trait Link: Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Gives `note` and `bytes` to all processes; returns those of each, in order. All of them must call it.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn gather(&self, note: u8, bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, String>;
}

/// Why the ranks cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// A rank has failed.
    #[error("rank {rank}: {message}")]
    Failed {
        /// Its number.
        rank: usize,
        /// Its error, one line.
        message: String,
    },
    /// A rank was asked to stop.
    #[error("rank {0} was asked to stop")]
    Interrupted(usize),
    /// Two ranks were started differently.
    #[error("rank {rank} has {theirs} as its {what}, rank 0 has {ours}; {cure}")]
    Unlike {
        /// The other rank's number.
        rank: usize,
        /// What differs.
        what: String,
        /// The value of the rank.
        theirs: String,
        /// The value of rank 0.
        ours: String,
        /// What to do.
        cure: &'static str,
    },
    /// The link has failed.
    #[error("the ranks have lost each other ({0}); run the same command again")]
    Link(String),
    /// Bytes that another version of the program has written, perhaps.
    #[error("rank {0} sent what cannot be read; give all ranks the same version of vitrim")]
    Damaged(usize),
}

/// How a rank is, beside its bytes.
const WELL: u8 = 0;
const FAILED: u8 = 1;
const INTERRUPTED: u8 = 2;

/// The ranks, seen by one of them.
#[derive(Clone)]
pub struct Ranks {
    /// `None` for a process on its own.
    link: Option<Arc<dyn Link>>,
    /// Whether no gathering can follow: the work has ended, here or on another rank.
    over: Arc<AtomicBool>,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Ranks {
    /// A process on its own.
    pub fn alone() -> Self {
        Ranks { link: None, over: Arc::default() }
    }

    /// The processes behind `link`.
    pub fn over(link: Arc<dyn Link>) -> Self {
        Ranks { link: Some(link), over: Arc::default() }
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.rank())
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.size())
    }

    /// Whether this is rank 0, which alone writes and prints.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is no other rank.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// The part of `count` things that is this rank's: the ranks' parts are consecutive, and differ by at most one.
    pub fn share(&self, count: usize) -> Range<usize> {
        share(self.rank(), self.size(), count)
    }

    /// `own` of every rank, in order, and the number of bytes that this rank got from others.
    ///
    /// # Errors
    /// If a rank has failed or was asked to stop.
    pub fn gather<T: Wire>(&self, own: T) -> Result<(Vec<T>, usize), RankError> {
        let Some(link) = self.link.as_ref().filter(|link| link.size() > 1) else {
            return Ok((vec![own], 0));
        };
        let rank = link.rank();
        let answers = self.exchange(WELL, &own.to_bytes())?;
        let received = answers.iter().enumerate().filter(|(r, _)| *r != rank).map(|(_, bytes)| bytes.len());
        let received = received.sum();
        let mut own = Some(own);
        let all = answers.iter().enumerate().map(|(from, bytes)| match own.take_if(|_| from == rank) {
            Some(own) => Ok(own),
            None => T::from_bytes(bytes).map_err(|Damaged| RankError::Damaged(from)),
        });
        Ok((all.collect::<Result<_, _>>()?, received))
    }

    /// `value` of rank 0; the other ranks' is not looked at.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn from_first<T: Wire>(&self, value: impl FnOnce() -> T) -> Result<T, RankError> {
        let (all, _) = self.gather(self.is_first().then(value))?;
        all.into_iter().next().flatten().ok_or(RankError::Damaged(0))
    }

    /// Whether `it` holds on any rank.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn any(&self, it: bool) -> Result<bool, RankError> {
        Ok(self.gather(it)?.0.contains(&true))
    }

    /// Checks that the ranks were started alike: each of `facts`, a name and a value, must be the same everywhere.
    ///
    /// # Errors
    /// [`RankError::Unlike`] with `cure`, on every rank; otherwise as [`Ranks::gather`].
    pub fn agree(&self, facts: &[(&str, String)], cure: &'static str) -> Result<(), RankError> {
        let values: Vec<String> = facts.iter().map(|(_, value)| value.clone()).collect();
        let (all, _) = self.gather(values)?;
        for (rank, values) in all.iter().enumerate() {
            let pairs = facts.iter().zip(values).zip(&all[0]);
            if let Some((((what, _), theirs), ours)) = pairs.into_iter().find(|((_, v), ours)| v != ours) {
                self.over.store(true, Ordering::Relaxed);
                let (what, theirs, ours) = ((*what).to_owned(), theirs.clone(), ours.clone());
                return Err(RankError::Unlike { rank, what, theirs, ours, cure });
            }
        }
        Ok(())
    }

    /// Ends the work of this rank, once the others have ended theirs.
    ///
    /// # Errors
    /// As [`Ranks::gather`]: another rank may have failed at its end.
    pub fn end(&self) -> Result<(), RankError> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.gather(())?;
        self.over.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the other ranks that this one has failed, and why, unless they know that the work is over. Returns the error of
    /// the first rank that failed.
    pub fn fail(&self, message: &str) -> RankError {
        self.leave(FAILED, message)
    }

    /// Tells the other ranks that this one was asked to stop, unless they know that the work is over.
    pub fn interrupt(&self) -> RankError {
        self.leave(INTERRUPTED, "")
    }

    /// Whether no gathering can follow, since a rank has failed or all have ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn leave(&self, how: u8, message: &str) -> RankError {
        let own = match how {
            INTERRUPTED => RankError::Interrupted(self.rank()),
            _ => RankError::Failed { rank: self.rank(), message: message.to_owned() },
        };
        if self.is_over() {
            return own;
        }
        self.exchange(how, message.as_bytes()).err().unwrap_or(own)
    }

    /// The bytes of all ranks.
    fn exchange(&self, how: u8, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RankError> {
        let Some(link) = &self.link else {
            self.over.store(how != WELL, Ordering::Relaxed);
            return Ok(vec![bytes.to_vec()]);
        };
        let gone = |error| {
            self.over.store(true, Ordering::Relaxed);
            error
        };
        if self.is_over() {
            return Err(RankError::Link("one of them has ended before".into()));
        }
        let answers = link.gather(how, bytes).map_err(|error| gone(RankError::Link(error)))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for of in [FAILED, INTERRUPTED] {
            if let Some((rank, (_, bytes))) = answers.iter().enumerate().find(|(_, (how, _))| *how == of) {
                return Err(gone(match of {
                    FAILED => RankError::Failed { rank, message: text(bytes) },
                    _ => RankError::Interrupted(rank),
                }));
            }
        }
        Ok(answers.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

/// The part of `count` things that is that of `rank`, of `size` ranks.
pub fn share(rank: usize, size: usize, count: usize) -> Range<usize> {
    rank * count / size..(rank + 1) * count / size
}

#[cfg(test)]
mod tests;
