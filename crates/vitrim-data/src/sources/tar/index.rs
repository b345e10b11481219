//! Tar shards as files: one pass over the headers, then random access to the images.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::member::{FileMember, Form};
use super::place::{Links, Place};
use super::sample::{BLOCK, Role, Sample, damaged, key_and_role, label_text};
use super::stream::member_origin;
use crate::decoding::too_long;
use crate::error::DataError;
use crate::labels::StatedLabels;
use crate::limits::{MAX_ENCODED_BYTES, MAX_LABEL_BYTES};
use crate::sources::folder::name_of;
use crate::sources::stamp::Stamp;

/// The images of one split's shards: their places and their labels.
#[derive(Debug)]
pub(crate) struct TarIndex {
    shards: Vec<(PathBuf, Stamp)>,
    /// The images, in order of shard, then as stored.
    members: Vec<Member>,
    /// Class names, sorted; empty if labels are indices or absent.
    pub class_names: Vec<String>,
    /// One label for each image.
    pub labels: Vec<Option<u32>>,
}

#[derive(Debug)]
struct Member {
    /// Index into [`TarIndex::shards`].
    shard: u32,
    place: Place,
    /// The member's path in the shard.
    name: Box<str>,
}

impl TarIndex {
    /// Reads the headers and labels of `shards`, no images.
    pub(crate) fn open(shards: Vec<PathBuf>) -> Result<Self, DataError> {
        let (mut stamped, mut members, mut labels) = (Vec::new(), Vec::new(), StatedLabels::default());
        for (shard, path) in (0..).zip(&shards) {
            let stamp = for_each_sample(path, |name, place, label| {
                members.push(Member { shard, place, name: name.into() });
                labels.push(label);
            })?;
            stamped.push((path.clone(), stamp));
        }
        if members.is_empty() {
            return Err(DataError::Empty { path: shards.into_iter().next().unwrap_or_default() });
        }
        let shards = stamped;
        let mut index = Self { shards, members, class_names: Vec::new(), labels: Vec::new() };
        (index.class_names, index.labels) = labels.classes(|row| index.origin_of_row(row))?;
        Ok(index)
    }

    /// `shard.tar/member`.
    pub(crate) fn name_of_row(&self, row: usize) -> String {
        let member = &self.members[row];
        format!("{}/{}", name_of(&self.shards[member.shard as usize].0), member.name)
    }

    /// `folder/shard.tar, member`: the location of the image.
    pub(crate) fn origin_of_row(&self, row: usize) -> String {
        let member = &self.members[row];
        format!("{}, {}", self.shards[member.shard as usize].0.display(), member.name)
    }

    /// The shard of `row`, open, with offset and number of the bytes of the image in it; `None` if these are not in one
    /// piece, or the shard cannot be opened or has changed.
    pub(crate) fn open_row(&self, row: usize) -> Option<(File, u64, u64)> {
        let Member { shard, place: Place::Whole { offset, bytes }, .. } = &self.members[row] else {
            return None;
        };
        let (path, stamp) = &self.shards[*shard as usize];
        Some((stamp.reopen(path).ok()?, *offset, *bytes))
    }

    /// The encoded image of `row`.
    pub(crate) fn read_row(&self, row: usize) -> Result<Vec<u8>, DataError> {
        let Member { shard, place, .. } = &self.members[row];
        if place.bytes() > MAX_ENCODED_BYTES {
            return Err(too_long(self.origin_of_row(row)));
        }
        if let Place::Nowhere(reason) = place {
            return Err(DataError::bad_image(self.origin_of_row(row), reason));
        }
        let (path, stamp) = &self.shards[*shard as usize];
        // The shard is opened for each read: a process cannot hold thousands of files open.
        place.read(stamp.reopen(path)?).map_err(|cause| DataError::io(path, cause))
    }
}

/// Calls `sink` with the image member, its place and the label of every sample in the shard at `path`.
fn for_each_sample(path: &Path, mut sink: impl FnMut(&str, Place, Option<&str>)) -> Result<Stamp, DataError> {
    let origin = path.display().to_string();
    let damaged = |error| damaged(&origin, error);
    let (file, stamp) = Stamp::open(path)?;
    let len = stamp.bytes();
    let mut archive = tar::Archive::new(file);
    let mut current: Option<Sample<Place>> = None;
    let mut samples = Samples::default();
    let twice = |key: &str, (one, other): (String, String)| DataError::Correspondence {
        origin: format!("{}, sample {key}", path.display()),
        what: format!("has two labels that lie apart, {one} and {other}; remove one"),
    };
    let mut links: Option<Links> = None;
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let is_sparse = entry.header().entry_type().is_gnu_sparse();
        let stored = if is_sparse { entry.header().entry_size().map_err(damaged)? } else { entry.size() };
        let stop = entry.raw_file_position().saturating_add(stored);
        // Seeking beyond the end of a truncated file gives no error.
        end = stop.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        if stop > len {
            let reason = format!("it ends within its last member, at {len} bytes");
            return Err(DataError::DamagedTar { origin, reason });
        }
        let Some(FileMember { name, form }) = FileMember::of(&mut entry).map_err(damaged)? else { continue };
        let Some((key, role)) = key_and_role(&name) else { continue };
        if current.as_ref().is_none_or(|sample| sample.key != key)
            && let Some(sample) = current.replace(Sample::new(key))
        {
            samples.add(sample, twice)?;
        }
        let Some(sample) = &mut current else { continue };
        if role == Role::Other {
            continue;
        }
        let is_link = matches!(form, Form::Link(_));
        let place = match Place::of(&entry, form) {
            Ok(place) => place,
            Err(target) => match &links {
                Some(links) => links.follow(&target),
                None => links.insert(Links::of(path)?).follow(&target),
            },
        };
        match role {
            Role::Image { exact } => sample.take_image(exact, &name, place),
            Role::Class | Role::Json if place.bytes() <= MAX_LABEL_BYTES => {
                let mut text = Vec::new();
                match &place {
                    Place::Nowhere(reason) => {
                        let (origin, what) = (member_origin(&origin, &name), reason.to_string());
                        return Err(DataError::TarMember { origin, what });
                    }
                    place if is_link => {
                        text = place.read(stamp.reopen(path)?).map_err(|cause| DataError::io(path, cause))?
                    }
                    _ => {
                        entry.read_to_end(&mut text).map_err(damaged)?;
                    }
                }
                sample.take_label(role, label_text(&text, || member_origin(&origin, &name))?);
            }
            Role::Class | Role::Json | Role::Other => {}
        }
    }
    if end + BLOCK > len {
        let reason = format!("it ends at {len} bytes, without the empty blocks that end an archive");
        return Err(DataError::DamagedTar { origin, reason });
    }
    if let Some(sample) = current {
        samples.add(sample, twice)?;
    }
    for whole in samples.all.into_iter().filter_map(Sample::whole) {
        sink(&whole.name, whole.image, whole.label.as_deref());
    }
    Ok(stamp)
}

/// The samples of a shard, in order of their first members.
#[derive(Default)]
struct Samples {
    all: Vec<Sample<Place>>,
    /// The last sample of each key.
    last: HashMap<String, usize>,
}

impl Samples {
    /// Adds `sample`, or its members to an earlier sample of which they are parts; `twice` makes the error of two
    /// labels.
    fn add(
        &mut self,
        sample: Sample<Place>,
        twice: impl Fn(&str, (String, String)) -> DataError,
    ) -> Result<(), DataError> {
        if sample.parts().are_none() {
            return Ok(());
        }
        let key = sample.key.clone();
        let another = match self.last.get(&key) {
            Some(&at) => self.all[at].join(sample).map_err(|labels| twice(&key, labels))?,
            None => Some(sample),
        };
        if let Some(sample) = another {
            self.last.insert(key, self.all.len());
            self.all.push(sample);
        }
        Ok(())
    }
}
