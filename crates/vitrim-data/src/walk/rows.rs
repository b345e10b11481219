//! The rows of a store that belong to a data set.

use std::sync::Arc;

/// Maps positions in a data set to rows of its store. Both ascend together. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// The rows that belong to the data set, ascending; all of them if absent.
    kept: Option<Arc<[usize]>>,
    /// Number of rows of the store; `None` for a stream, for which it is unknown.
    all: Option<usize>,
}

impl Rows {
    /// All rows of a store that has `rows` of them; `None` for a stream.
    pub(crate) fn all(rows: Option<usize>) -> Self {
        Self { kept: None, all: rows }
    }

    /// The rows in `kept`, ascending, of the same store.
    pub(crate) fn keeping(&self, kept: Arc<[usize]>) -> Self {
        Self { kept: Some(kept), ..*self }
    }

    /// All rows of the same store.
    pub(crate) fn whole(&self) -> Self {
        Self { kept: None, ..*self }
    }

    /// Number of rows that belong to the data set; for a stream, [`usize::MAX`].
    pub(crate) fn len(&self) -> usize {
        let Some(all) = self.all else { return usize::MAX };
        self.kept.as_ref().map_or(all, |kept| kept.len())
    }

    /// The row of the image at `position`, if there is one; for a stream, any position is possible.
    pub(crate) fn row(&self, position: usize) -> Option<usize> {
        match &self.kept {
            Some(kept) => kept.get(position).copied(),
            None => (position < self.len()).then_some(position),
        }
    }

    /// The first position whose row is `row` or later.
    pub(crate) fn position_of(&self, row: usize) -> usize {
        match &self.kept {
            Some(kept) => kept.partition_point(|&kept| kept < row),
            None => row.min(self.len()),
        }
    }
}
