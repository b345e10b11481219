//! Images that could not be read or decoded, and were left out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// Number of messages that a [`BadImages`] keeps.
const KEPT_MESSAGES: usize = 10;

/// What a [`Loader`](crate::Loader) does with an image that cannot be read or decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// Ends with an error that names the image.
    #[default]
    Fail,
    /// Leaves the image out, and records it in [`BadImages`].
    Skip,
}

/// A count of the images that were left out, and the first few messages. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct BadImages {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    count: usize,
    first: Vec<String>,
    /// Rows that were counted, if each is to count once.
    rows: HashSet<usize>,
}

impl BadImages {
    /// Number of images that were left out so far.
    pub fn count(&self) -> usize {
        self.seen().count
    }

    /// One line for each of the first ten images that were left out, in the order of the data.
    pub fn first(&self) -> Vec<String> {
        self.seen().first.clone()
    }

    pub(crate) fn add(&self, error: &DataError) {
        let mut seen = self.seen();
        seen.count += 1;
        if seen.first.len() < KEPT_MESSAGES {
            seen.first.push(error.to_string());
        }
    }

    /// Like `add`, but each row counts once, in however many passes it occurs.
    pub(crate) fn add_once(&self, row: usize, error: &DataError) {
        if self.seen().rows.insert(row) {
            self.add(error);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A count and a list of strings are valid after a panic elsewhere.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_ten_named() {
        let bad = BadImages::default();
        let other = bad.clone();
        for i in 0..12 {
            other.add(&DataError::bad_image(format!("{i}.jpg"), "no bytes"));
        }
        assert_eq!((bad.count(), bad.first().len()), (12, 10));
        assert!(bad.first()[9].starts_with("9.jpg: "));
        for row in [3, 3, 4] {
            bad.add_once(row, &DataError::bad_image("x.jpg", "no bytes"));
        }
        assert_eq!(bad.count(), 14);
    }
}
