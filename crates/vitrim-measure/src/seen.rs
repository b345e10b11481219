//! Which images a policy has seen, by the hashes of their bytes: a file in the policy's folder, from which a report
//! tells whether the images of an evaluation are new to the policy.
//!
//! `seen.safetensors` in the policy's folder holds two lists, `training` and `calibration`: the first 64 bits of each
//! image's content hash (BLAKE3), ascending, u64. Eight bytes per image are 10 MB for ImageNet-1k. Among a million
//! images, the probability that two different ones have the same 64 bits is about 1 in 10^8. Policies written before
//! this file was introduced have none.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use vitrim_data::{ContentHash, Dataset};

use crate::error::{MeasureError, Result};
use crate::images::OnProgress;

/// File name in a policy's folder.
pub const FILE: &str = "seen.safetensors";
/// The lists in it.
const TRAINING: &str = "training";
const CALIBRATION: &str = "calibration";
/// Largest file that is read, bytes: 128 million images. Beyond it, a file is damaged or hostile.
const MAX_BYTES: u64 = 1 << 30;

/// The images that a policy has seen, as far as they are on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenImages {
    /// Images of its training, ascending; `None` if they are not on record.
    training: Option<Vec<u64>>,
    /// Images of its calibration, ascending; `None` if they are not on record.
    calibration: Option<Vec<u64>>,
}

/// How many images of an evaluation the policy had seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// Number of training images among them; null if these are not on record.
    pub training: Option<usize>,
    /// Number of calibration images among them; null if these are not on record.
    pub calibration: Option<usize>,
}

impl SeenImages {
    /// The record of the policy in `folder`, empty if it has none.
    ///
    /// # Errors
    /// If the record is damaged, or cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bad = |reason: String| MeasureError::Policy { path: path.clone(), reason };
        let length = match std::fs::metadata(&path) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(SeenImages::default()),
            Err(error) => return Err(bad(format!("cannot be read ({error})"))),
        };
        if length > MAX_BYTES {
            return Err(bad(format!("is larger than {MAX_BYTES} bytes; remove it")));
        }
        let bytes = std::fs::read(&path).map_err(|error| bad(format!("cannot be read ({error})")))?;
        let damaged =
            |reason: &str| bad(format!("damaged ({reason}); remove it, and nothing is known of what it saw"));
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error.to_string()))?;
        let list = |name: &str| -> Result<Option<Vec<u64>>> {
            let Ok(tensor) = tensors.tensor(name) else { return Ok(None) };
            if tensor.dtype() != Dtype::U64 || tensor.shape().len() != 1 {
                return Err(damaged("a list of hashes is none"));
            }
            let (hashes, _) = tensor.data().as_chunks::<8>();
            let hashes: Vec<u64> = hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
            if hashes.is_sorted() { Ok(Some(hashes)) } else { Err(damaged("hashes do not ascend")) }
        };
        Ok(SeenImages { training: list(TRAINING)?, calibration: list(CALIBRATION)? })
    }

    /// Writes the record into the policy's `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let lists = [(TRAINING, &self.training), (CALIBRATION, &self.calibration)];
        let bytes: Vec<(&str, usize, Vec<u8>)> = lists
            .into_iter()
            .filter_map(|(name, list)| Some((name, list.as_ref()?)))
            .map(|(name, list)| (name, list.len(), list.iter().flat_map(|hash| hash.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, count, bytes)| {
            (*name, TensorView::new(Dtype::U64, vec![*count], bytes).expect("eight bytes a hash"))
        });
        let file = safetensors::serialize(views, None).expect("the names are distinct");
        vitrim_durable::create_folder(folder)?;
        Ok(vitrim_durable::replace(&folder.join(FILE), &file)?)
    }

    /// Adds `images` to the training images.
    #[must_use]
    pub fn trained_on(self, images: &[ContentHash]) -> Self {
        let before = self.training.unwrap_or_default();
        SeenImages { training: Some(sorted(before.into_iter().chain(images.iter().map(short)))), ..self }
    }

    /// Replaces the calibration images by `images`.
    #[must_use]
    pub fn calibrated_on(self, images: &[ContentHash]) -> Self {
        SeenImages { calibration: Some(sorted(images.iter().map(short))), ..self }
    }

    /// The record without calibration images, for a policy whose threshold was not calibrated.
    #[must_use]
    pub fn uncalibrated(self) -> Self {
        SeenImages { calibration: None, ..self }
    }

    /// How many of `images` are on record; `None` if nothing is on record.
    pub fn overlap(&self, images: &[ContentHash]) -> Option<Overlap> {
        if *self == SeenImages::default() {
            return None;
        }
        let count = |list: &Option<Vec<u64>>| {
            let list = list.as_ref()?;
            Some(images.iter().filter(|image| list.binary_search(&short(image)).is_ok()).count())
        };
        Some(Overlap { training: count(&self.training), calibration: count(&self.calibration) })
    }
}

/// The hashes of the images of `dataset` at `indices`; `None` for a stream, which cannot be read twice.
///
/// # Errors
/// If an image cannot be read.
pub fn hashes_at(
    dataset: &Dataset,
    indices: &[usize],
    progress: OnProgress<'_>,
) -> Result<Option<Vec<ContentHash>>> {
    if dataset.is_stream() {
        return Ok(None);
    }
    let all = dataset.content_hash_list(progress)?;
    Ok(Some(indices.iter().map(|index| all[*index]).collect()))
}

fn short(hash: &ContentHash) -> u64 {
    let (heads, _) = hash.as_bytes().as_chunks::<8>();
    u64::from_le_bytes(heads[0])
}

fn sorted(hashes: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut hashes: Vec<u64> = hashes.collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(names: &[&str]) -> Vec<ContentHash> {
        names.iter().map(|name| ContentHash::of(name.as_bytes())).collect()
    }

    #[test]
    fn what_was_seen_is_counted_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(SeenImages::read(folder.path()).unwrap().overlap(&hashes(&["a"])), None, "no record");
        let seen = SeenImages::default().trained_on(&hashes(&["a", "b", "c"]));
        let overlap = seen.overlap(&hashes(&["a", "x", "c", "a"])).unwrap();
        assert_eq!(overlap, Overlap { training: Some(3), calibration: None });
        let seen = seen.trained_on(&hashes(&["d"])).calibrated_on(&hashes(&["x"]));
        seen.write(folder.path()).unwrap();
        let read = SeenImages::read(folder.path()).unwrap();
        assert_eq!(read, seen);
        let overlap = read.overlap(&hashes(&["d", "x", "y"])).unwrap();
        assert_eq!(overlap, Overlap { training: Some(1), calibration: Some(1) });
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"nonsense").unwrap();
        let error = SeenImages::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("damaged"), "{error}");
        let unsorted = [2u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
        let view = TensorView::new(Dtype::U64, vec![2], &unsorted).unwrap();
        let file = safetensors::serialize([(TRAINING, view)], None).unwrap();
        std::fs::write(folder.path().join(FILE), file).unwrap();
        let error = SeenImages::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("do not ascend"), "{error}");
    }
}
