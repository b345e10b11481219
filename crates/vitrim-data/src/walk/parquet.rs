//! Walks parquet row groups, each read at most once per pass.
//!
//! A shuffle works on blocks: row groups are permuted, consecutive ones form a window of at most [`WINDOW_ROWS`]
//! images and [`WINDOW_BYTES`] bytes, and the images of a window are held in memory and permuted. A row group that
//! alone exceeds both is one window, and needs the memory of its encoded images.

use std::ops::Range;

use super::rows::Rows;
use super::sink::Sink;
use crate::error::DataError;
use crate::order::{Shuffling, shuffle};
use crate::sources::{ParquetIndex, Payload, RowGroup};

const WINDOW_ROWS: usize = 16_384;
const WINDOW_BYTES: u64 = 128 << 20;
/// Images per read from a column, between two checks whether more are wanted.
const CHUNK_ROWS: usize = 32;

/// The positions of the images of `group` that belong to the data set: a range, because both ascend.
fn positions_in(rows: &Rows, group: &RowGroup) -> Range<usize> {
    rows.position_of(group.first_row)..rows.position_of(group.first_row + group.rows)
}

/// Reads the images at `positions`, which lie in `group`, ascending; returns whether `sink` wants more.
fn read_group(
    rows: &Rows,
    parquet: &ParquetIndex,
    group: &RowGroup,
    positions: &[usize],
    sink: &mut Sink<'_>,
) -> Result<bool, DataError> {
    let mut reader = parquet.read_group(group)?;
    let mut at = group.first_row;
    let mut positions = positions.iter().filter_map(|&index| Some((index, rows.row(index)?))).peekable();
    while let Some(&(_, first)) = positions.peek() {
        reader.skip(first - at)?;
        let count = CHUNK_ROWS.min(group.first_row + group.rows - first);
        let chunk = reader.read(count)?;
        at = first + count;
        for (row, image) in (first..).zip(chunk) {
            let Some((index, _)) = positions.next_if(|&(_, wanted)| wanted == row) else { continue };
            if !sink(index, image.into()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

pub(super) fn in_order(
    rows: &Rows,
    parquet: &ParquetIndex,
    places: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let first = rows.row(places.start).map_or(parquet.groups.len(), |row| parquet.group_of_row(row));
    for group in &parquet.groups[first..] {
        let within = positions_in(rows, group);
        let wanted: Vec<usize> = (within.start.max(places.start)..within.end.min(places.end)).collect();
        if within.start >= places.end {
            break;
        }
        if !wanted.is_empty() && !read_group(rows, parquet, group, &wanted, sink)? {
            break;
        }
    }
    Ok(())
}

pub(super) fn shuffled(
    rows: &Rows,
    parquet: &ParquetIndex,
    (seed, epoch): (u64, u64),
    places: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let mut start = 0;
    for window in windows(rows, parquet, seed, epoch) {
        let mut positions: Vec<usize> = window.iter().flat_map(|group| positions_in(rows, group)).collect();
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
        if !show_window(rows, parquet, &window, wanted, sink)? {
            break;
        }
    }
    Ok(())
}

/// Reads the images at `wanted`, all in `window`, and shows them in the order of `wanted`.
fn show_window(
    rows: &Rows,
    parquet: &ParquetIndex,
    window: &[RowGroup],
    wanted: &[usize],
    sink: &mut Sink<'_>,
) -> Result<bool, DataError> {
    // Indices into `wanted`, sorted by position: images are read by position, and passed on by index.
    let mut by_position: Vec<usize> = (0..wanted.len()).collect();
    by_position.sort_unstable_by_key(|&place| wanted[place]);
    let sorted: Vec<usize> = by_position.iter().map(|&place| wanted[place]).collect();
    let mut held: Vec<Option<Payload>> = wanted.iter().map(|_| None).collect();
    for group in window {
        let within = positions_in(rows, group);
        let first = sorted.partition_point(|&index| index < within.start);
        let last = sorted.partition_point(|&index| index < within.end);
        let mut places = by_position[first..last].iter();
        read_group(rows, parquet, group, &sorted[first..last], &mut |_, payload| {
            if let Some(&place) = places.next() {
                held[place] = Some(payload);
            }
            true
        })?;
    }
    Ok(wanted.iter().zip(held).all(|(&index, payload)| payload.is_some_and(|payload| sink(index, payload))))
}

/// The row groups, permuted and divided into windows.
fn windows(rows: &Rows, parquet: &ParquetIndex, seed: u64, epoch: u64) -> Vec<Vec<RowGroup>> {
    let mut order: Vec<usize> = (0..parquet.groups.len()).collect();
    shuffle(&mut order, Shuffling::RowGroups, seed, epoch);
    let mut windows: Vec<Vec<RowGroup>> = Vec::new();
    let (mut images, mut bytes) = (0, 0_u64);
    for group in order.into_iter().map(|g| parquet.groups[g]) {
        let kept = positions_in(rows, &group).len();
        if kept == 0 {
            continue;
        }
        // The footer states the bytes, and may state any number.
        let kept_bytes = group.bytes.saturating_mul(kept as u64) / group.rows as u64;
        images += kept;
        bytes = bytes.saturating_add(kept_bytes);
        match windows.last_mut() {
            Some(window) if images <= WINDOW_ROWS && bytes <= WINDOW_BYTES => window.push(group),
            _ => {
                windows.push(vec![group]);
                (images, bytes) = (kept, kept_bytes);
            }
        }
    }
    windows
}
