//! One walk over the rows of any store.

use std::ops::Range;
use std::sync::Arc;

use super::parquet;
use super::rows::Rows;
use super::sink::Sink;
use crate::error::DataError;
use crate::order::{Order, Shuffling, shuffle};
use crate::sources::{Payload, Store, StreamedRow, TarStream};

/// The class of an image of a stream, from its member's name and its label in the shard.
type ClassInStream<'a> = dyn Fn(&str, Option<&str>) -> Result<Option<u32>, DataError> + 'a;

/// The data set of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub store: &'a Store,
    pub rows: &'a Rows,
    pub class_in_stream: &'a ClassInStream<'a>,
}

impl Walk<'_> {
    /// Calls `sink` with the images whose positions in `order` lie in `places`, in that order, until it returns
    /// false.
    ///
    /// # Errors
    ///
    /// If the store as a whole, not a single image, cannot be read, or a stream is to be shuffled.
    pub(crate) fn visit(
        self,
        order: Order,
        places: Range<usize>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DataError> {
        match self.store {
            Store::Parquet(index) => match order {
                Order::Sequential => parquet::in_order(self.rows, index, places, sink)?,
                Order::Shuffled { seed, epoch } => {
                    parquet::shuffled(self.rows, index, (seed, epoch), places, sink)?;
                }
            },
            Store::Files { root, paths } => {
                self.each(order, places, |index, row| sink(index, Payload::File(root.join(&paths[row]))));
            }
            Store::Tar(_) => self.each(order, places, |index, row| sink(index, Payload::Member(row))),
            Store::Stream(stream) => {
                if order != Order::Sequential {
                    return Err(DataError::OnePass { origin: stream.origin(), wanted: "shuffled" });
                }
                self.stream_in_order(stream, places, sink)?;
            }
            Store::Memory(images) => {
                self.each(order, places, |index, row| {
                    sink(index, Payload::Encoded(Arc::clone(&images[row])))
                });
            }
            Store::Scenes { first_seed } => {
                self.each(order, places, |index, row| sink(index, Payload::Scene(first_seed + row as u64)));
            }
        }
        Ok(())
    }

    /// Calls `show(position, row)`, for stores with random access.
    fn each(self, order: Order, places: Range<usize>, mut show: impl FnMut(usize, usize) -> bool) {
        let mut show = |index| self.rows.row(index).is_some_and(|row| show(index, row));
        match order {
            Order::Sequential => {
                let _stopped = places.into_iter().all(show);
            }
            Order::Shuffled { seed, epoch } => {
                let mut positions: Vec<usize> = (0..self.rows.len()).collect();
                shuffle(&mut positions, Shuffling::Images, seed, epoch);
                let wanted = positions.get(places).unwrap_or_default();
                let _stopped = wanted.iter().all(|&index| show(index));
            }
        }
    }

    /// Passes on the images of `places` as they are read.
    fn stream_in_order(
        self,
        stream: &TarStream,
        places: Range<usize>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DataError> {
        let mut row = 0;
        stream.read(&mut |name, label, image| {
            if row >= places.end {
                return Ok(false);
            }
            let label = (self.class_in_stream)(&name, label.as_deref())?;
            // A second pass over a file reads rows that the first pass has recorded.
            let mut rows = stream.rows();
            if row == rows.len() {
                rows.push(StreamedRow { name, label });
            }
            drop(rows);
            row += 1;
            if row <= places.start {
                return Ok(true);
            }
            Ok(sink(row - 1, image.map_or_else(Payload::Refused, Payload::Encoded)) && row < places.end)
        })
    }
}
