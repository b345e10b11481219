//! Tar shards as files: one pass over the headers, then random access to the images.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::sample::{BLOCK, Role, Sample, damaged, key_and_role};
use crate::decoding::too_long;
use crate::error::DataError;
use crate::labels::StatedLabels;
use crate::limits::{MAX_ENCODED_BYTES, MAX_LABEL_BYTES};
use crate::sources::folder::name_of;

/// The images of one split's shards: their places and their labels.
#[derive(Debug)]
pub(crate) struct TarIndex {
    shards: Vec<PathBuf>,
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
    range: ByteRange,
    /// The member's path in the shard.
    name: Box<str>,
}

/// The place of an image's bytes in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ByteRange {
    offset: u64,
    bytes: u64,
}

impl TarIndex {
    /// Reads the headers and labels of `shards`, no images.
    pub(crate) fn open(shards: Vec<PathBuf>) -> Result<Self, DataError> {
        let (mut members, mut labels) = (Vec::new(), StatedLabels::default());
        for (shard, path) in (0..).zip(&shards) {
            for_each_sample(path, |name, range, label| {
                members.push(Member { shard, range, name: name.into() });
                labels.push(label);
            })?;
        }
        if members.is_empty() {
            return Err(DataError::Empty { path: shards.into_iter().next().unwrap_or_default() });
        }
        let mut index = Self { shards, members, class_names: Vec::new(), labels: Vec::new() };
        (index.class_names, index.labels) = labels.classes(|row| index.origin_of_row(row))?;
        Ok(index)
    }

    /// `shard.tar/member`.
    pub(crate) fn name_of_row(&self, row: usize) -> String {
        let member = &self.members[row];
        format!("{}/{}", name_of(&self.shards[member.shard as usize]), member.name)
    }

    /// `folder/shard.tar, member`: the location of the image.
    pub(crate) fn origin_of_row(&self, row: usize) -> String {
        let member = &self.members[row];
        format!("{}, {}", self.shards[member.shard as usize].display(), member.name)
    }

    /// The encoded image of `row`.
    pub(crate) fn read_row(&self, row: usize) -> Result<Vec<u8>, DataError> {
        let Member { shard, range, .. } = &self.members[row];
        if range.bytes > MAX_ENCODED_BYTES {
            return Err(too_long(self.origin_of_row(row)));
        }
        let path = &self.shards[*shard as usize];
        // The shard is opened for each read: a process cannot hold thousands of files open.
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(range.offset))?;
            let mut encoded = vec![0; usize::try_from(range.bytes).unwrap_or(usize::MAX)];
            file.read_exact(&mut encoded).map(|()| encoded)
        });
        read.map_err(|cause| DataError::io(path, cause))
    }
}

/// Calls `sink` with the image member, its byte range and the label of every sample in the shard at `path`.
fn for_each_sample(
    path: &Path,
    mut sink: impl FnMut(&str, ByteRange, Option<&str>),
) -> Result<(), DataError> {
    let origin = path.display().to_string();
    let damaged = |error| damaged(&origin, error);
    let file = File::open(path).map_err(|cause| DataError::io(path, cause))?;
    let len = file.metadata().map_err(|cause| DataError::io(path, cause))?.len();
    let mut archive = tar::Archive::new(file);
    let mut current: Option<Sample<ByteRange>> = None;
    let mut samples = Samples::default();
    let twice = |key: &str, (one, other): (String, String)| DataError::Correspondence {
        origin: format!("{}, sample {key}", path.display()),
        what: format!("has two labels that lie apart, {one} and {other}; remove one"),
    };
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let range = ByteRange { offset: entry.raw_file_position(), bytes: entry.size() };
        // Seeking beyond the end of a truncated file gives no error.
        end = range.offset.saturating_add(range.bytes).next_multiple_of(BLOCK);
        if range.offset.saturating_add(range.bytes) > len {
            let reason = format!("it ends within its last member, at {len} bytes");
            return Err(DataError::DamagedTar { origin, reason });
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, role)) = key_and_role(&name) else { continue };
        if current.as_ref().is_none_or(|sample| sample.key != key)
            && let Some(sample) = current.replace(Sample::new(key))
        {
            samples.add(sample, twice)?;
        }
        let Some(sample) = &mut current else { continue };
        match role {
            Role::Image { exact } => sample.take_image(exact, &name, range),
            Role::Class | Role::Json if range.bytes <= MAX_LABEL_BYTES => {
                let mut text = Vec::new();
                entry.read_to_end(&mut text).map_err(damaged)?;
                sample.take_label(role, &String::from_utf8_lossy(&text));
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
    Ok(())
}

/// The samples of a shard, in order of their first members.
#[derive(Default)]
struct Samples {
    all: Vec<Sample<ByteRange>>,
    /// The last sample of each key.
    last: HashMap<String, usize>,
}

impl Samples {
    /// Adds `sample`, or its members to an earlier sample of which they are parts; `twice` makes the error of two
    /// labels.
    fn add(
        &mut self,
        sample: Sample<ByteRange>,
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
