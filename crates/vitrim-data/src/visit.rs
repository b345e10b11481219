//! Walks a data set's encoded images in an order, reading each parquet row group at most once.
//!
//! Files, tar shards and memory are shuffled as a whole, streams not at all. Parquet is shuffled by blocks:
//! row groups are permuted, consecutive ones form a window of at most [`WINDOW_ROWS`] images and
//! [`WINDOW_BYTES`] bytes, and the images of a window are permuted and held in memory. A row group that alone
//! exceeds both still makes a window: it then costs the memory of its encoded images.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::dataset::{Dataset, Store};
use crate::error::DataError;
use crate::order::{Order, Shuffling, shuffle};
use crate::parquet::{ParquetIndex, RowGroup};
use crate::tar::{StreamedRow, TarStream};

const WINDOW_ROWS: usize = 16_384;
const WINDOW_BYTES: u64 = 128 << 20;
/// Images taken from a column at a time, between two looks at whether anyone still wants them.
const CHUNK_ROWS: usize = 32;

/// One image, encoded.
pub(crate) enum Payload {
    /// Not read yet.
    File(PathBuf),
    Encoded(Arc<[u8]>),
    /// To be read from its tar shard.
    Member(usize),
    /// To be drawn from this seed.
    Scene(u64),
    /// It came by, but is not to be had.
    Refused(DataError),
    /// A parquet row without an image.
    Null,
}

/// Takes (position in the data set, image); answers whether it wants more.
pub(crate) type Sink<'s> = dyn FnMut(usize, Payload) -> bool + 's;

/// Shows `sink` the images whose place in `order` lies in `places`, in that order.
pub(crate) fn visit(
    dataset: &Dataset,
    order: Order,
    places: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    match dataset.store() {
        Store::Parquet(parquet) => match order {
            Order::Sequential => {
                parquet_in_order(dataset, parquet, places, sink)?;
            }
            Order::Shuffled { seed, epoch } => {
                parquet_shuffled(dataset, parquet, (seed, epoch), places, sink)?;
            }
        },
        Store::Files { root, paths } => {
            each(dataset, order, places, |index, row| sink(index, Payload::File(root.join(&paths[row]))))
        }
        Store::Tar(_) => each(dataset, order, places, |index, row| sink(index, Payload::Member(row))),
        Store::Stream(stream) => {
            if order != Order::Sequential {
                return Err(DataError::OnePass { origin: stream.origin(), wanted: "shuffled" });
            }
            stream_in_order(dataset, stream, places, sink)?;
        }
        Store::Memory(images) => {
            each(dataset, order, places, |index, row| sink(index, Payload::Encoded(Arc::clone(&images[row]))))
        }
        Store::Scenes { first_seed } => {
            each(dataset, order, places, |index, row| sink(index, Payload::Scene(first_seed + row as u64)))
        }
    }
    Ok(())
}

/// Calls `show(position, row)` for stores whose rows are equally cheap to reach.
fn each(dataset: &Dataset, order: Order, places: Range<usize>, mut show: impl FnMut(usize, usize) -> bool) {
    let mut show = |index| dataset.row(index).is_some_and(|row| show(index, row));
    match order {
        Order::Sequential => {
            let _stopped = places.into_iter().all(show);
        }
        Order::Shuffled { seed, epoch } => {
            let mut positions: Vec<usize> = (0..dataset.len()).collect();
            shuffle(&mut positions, Shuffling::Images, seed, epoch);
            let wanted = positions.get(places).unwrap_or_default();
            let _stopped = wanted.iter().all(|&index| show(index));
        }
    }
}

/// Shows the images of `places` as they come by.
fn stream_in_order(
    dataset: &Dataset,
    stream: &TarStream,
    places: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut row = 0;
    stream.read(&mut |name, label, image| {
        if row >= places.end {
            return Ok(false);
        }
        let label = dataset.streamed_class(&name, label.as_deref())?;
        // A second pass over a file meets what the first has written down.
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

/// The positions of the images of `group` that belong to the data set: a range, because both ascend.
fn positions_in(dataset: &Dataset, group: &RowGroup) -> Range<usize> {
    dataset.position_of(group.first_row)..dataset.position_of(group.first_row + group.rows)
}

/// Reads the images at `positions`, which lie in `group`, ascending; answers whether `sink` wants more.
fn read_group(
    dataset: &Dataset,
    parquet: &ParquetIndex,
    group: &RowGroup,
    positions: &[usize],
    sink: &mut Sink<'_>,
) -> Result<bool, DataError> {
    let mut reader = parquet.read_group(group)?;
    let mut at = group.first_row;
    let mut positions = positions.iter().filter_map(|&index| Some((index, dataset.row(index)?))).peekable();
    while let Some(&(_, first)) = positions.peek() {
        reader.skip(first - at)?;
        let rows = CHUNK_ROWS.min(group.first_row + group.rows - first);
        let chunk = reader.read(rows)?;
        at = first + rows;
        while let Some((index, row)) = positions.next_if(|&(_, row)| row < at) {
            let payload = match &chunk[row - first] {
                Some(bytes) => Payload::Encoded(Arc::from(bytes.data())),
                None => Payload::Null,
            };
            if !sink(index, payload) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn parquet_in_order(
    dataset: &Dataset,
    parquet: &ParquetIndex,
    places: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let first = dataset.row(places.start).map_or(parquet.groups.len(), |row| parquet.group_of_row(row));
    for group in &parquet.groups[first..] {
        let within = positions_in(dataset, group);
        let wanted: Vec<usize> = (within.start.max(places.start)..within.end.min(places.end)).collect();
        if within.start >= places.end {
            break;
        }
        if !wanted.is_empty() && !read_group(dataset, parquet, group, &wanted, sink)? {
            break;
        }
    }
    Ok(())
}

fn parquet_shuffled(
    dataset: &Dataset,
    parquet: &ParquetIndex,
    (seed, epoch): (u64, u64),
    places: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut start = 0;
    for window in windows(dataset, parquet, seed, epoch) {
        let mut positions: Vec<usize> =
            window.iter().flat_map(|group| positions_in(dataset, group)).collect();
        let span = start..start + positions.len();
        start = span.end;
        if span.start >= places.end {
            break;
        }
        let (from, to) = (span.start.max(places.start), span.end.min(places.end));
        if from >= to {
            continue;
        }
        shuffle(&mut positions, Shuffling::Images, seed, epoch);
        let wanted = &positions[from - span.start..to - span.start];
        if !show_window(dataset, parquet, &window, wanted, sink)? {
            break;
        }
    }
    Ok(())
}

/// Reads the images at `wanted`, all in `window`, and shows them in the order of `wanted`.
fn show_window(
    dataset: &Dataset,
    parquet: &ParquetIndex,
    window: &[RowGroup],
    wanted: &[usize],
    sink: &mut Sink<'_>,
) -> Result<bool, DataError> {
    // Places in `wanted`, by position: reading goes by position, showing by place.
    let mut by_position: Vec<usize> = (0..wanted.len()).collect();
    by_position.sort_unstable_by_key(|&place| wanted[place]);
    let sorted: Vec<usize> = by_position.iter().map(|&place| wanted[place]).collect();
    let mut held: Vec<Option<Payload>> = wanted.iter().map(|_| None).collect();
    for group in window {
        let within = positions_in(dataset, group);
        let first = sorted.partition_point(|&index| index < within.start);
        let last = sorted.partition_point(|&index| index < within.end);
        let mut places = by_position[first..last].iter();
        read_group(dataset, parquet, group, &sorted[first..last], &mut |_, payload| {
            if let Some(&place) = places.next() {
                held[place] = Some(payload);
            }
            true
        })?;
    }
    Ok(wanted.iter().zip(held).all(|(&index, payload)| payload.is_some_and(|payload| sink(index, payload))))
}

/// The row groups, permuted and cut into windows.
fn windows(dataset: &Dataset, parquet: &ParquetIndex, seed: u64, epoch: u64) -> Vec<Vec<RowGroup>> {
    let mut order: Vec<usize> = (0..parquet.groups.len()).collect();
    shuffle(&mut order, Shuffling::RowGroups, seed, epoch);
    let mut windows: Vec<Vec<RowGroup>> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for group in order.into_iter().map(|g| parquet.groups[g]) {
        let kept = positions_in(dataset, &group).len();
        if kept == 0 {
            continue;
        }
        let kept_bytes = group.bytes * kept as u64 / group.rows as u64;
        rows += kept;
        bytes += kept_bytes;
        match windows.last_mut() {
            Some(window) if rows <= WINDOW_ROWS && bytes <= WINDOW_BYTES => window.push(group),
            _ => {
                windows.push(vec![group]);
                (rows, bytes) = (kept, kept_bytes);
            }
        }
    }
    windows
}
