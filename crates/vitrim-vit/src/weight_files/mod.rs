//! Stored weights: safetensors files, whole or in shards, and what `torch.save` writes. A file is what it holds, not
//! what it is called.

mod find;
mod kind;
mod opcodes;
mod pickle;
mod script;
mod wrappers;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use crate::error::{Result, VitError};
use crate::limits::MAX_HEADER_BYTES;
use crate::text::read_json;
pub(crate) use find::find_weights;
use kind::FileKind;
use pickle::Pickled;
use wrappers::{unwrapped, weights_in};

/// Stored tensors by name.
pub struct WeightFiles {
    /// The path that was opened: the file, or the index of shards.
    path: PathBuf,
    /// safetensors files. They are read tensor by tensor, not mapped. If another process shortens or rewrites a file,
    /// a read gives an error or another value; with a mapping, it would end the process or change data behind a
    /// reference.
    files: Vec<(PathBuf, Mutex<File>)>,
    entries: BTreeMap<String, Entry>,
    /// Tensors beside the weights in a dictionary, which may be weights, too: see [`WeightFiles::unwrap`].
    beside: BTreeMap<String, Entry>,
    notes: Vec<String>,
    /// What safetensors headers state besides tensors.
    stated: BTreeMap<String, String>,
}

struct Entry {
    shape: Vec<usize>,
    at: StoredAt,
}

enum StoredAt {
    /// A range of bytes of one file.
    Stored {
        file: usize,
        dtype: Dtype,
        bytes: Range<u64>,
    },
    Pickled {
        path: PathBuf,
        tensor: Pickled,
    },
}

impl WeightFiles {
    /// Opens a safetensors file, a file of `torch.save`, or the index of several of either.
    ///
    /// # Errors
    /// If a file cannot be read, is damaged, or holds no weights.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = WeightFiles {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            beside: BTreeMap::new(),
            notes: Vec::new(),
            stated: BTreeMap::new(),
        };
        match FileKind::of(path)? {
            FileKind::Index => files.add_shards(path)?,
            kind => files.add(path, kind)?,
        }
        Ok(files)
    }

    /// What was chosen among several readings of the files, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes from the tensors' names the modules around the backbone, such as `module.` and `_orig_mod.`: a name
    /// becomes one of `known` if it can.
    ///
    /// # Errors
    /// [`VitError::SameTensor`] if two tensors get one name.
    pub(crate) fn unwrap(&mut self, known: &HashSet<String>) -> Result<()> {
        let mut stored_as: BTreeMap<String, String> = BTreeMap::new();
        for (name, entry) in std::mem::take(&mut self.entries) {
            let left = unwrapped(&name, known).unwrap_or_else(|| name.clone());
            if let Some(other) = stored_as.insert(left.clone(), name.clone()) {
                let path = self.path.clone();
                return Err(VitError::SameTensor { path, name: left, stored: [other, name] });
            }
            self.entries.insert(left, entry);
        }
        for (name, entry) in std::mem::take(&mut self.beside) {
            if known.contains(&name) {
                self.entries.entry(name).or_insert(entry);
            }
        }
        Ok(())
    }

    /// The file, or the index of shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text that a safetensors header states under `key`, in its `__metadata__`.
    pub fn stated(&self, key: &str) -> Option<&str> {
        self.stated.get(key).map(String::as_str)
    }

    /// All names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The tensor `name` of `shape` as f32.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape or a type that is not F32, F16 or BF16, cannot be read, or has a
    /// value that is NaN or infinite.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry = self.expect(name, shape)?;
        let (path, dtype, bytes) = match &entry.at {
            StoredAt::Stored { file, dtype, bytes } => {
                let (path, file) = &self.files[*file];
                // The lock protects the file's position, which each read sets.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                (path, Ok(*dtype), read_range(&mut file, bytes.clone()))
            }
            StoredAt::Pickled { path, tensor } => (path, tensor.dtype(), tensor.read()),
        };
        let unread = |dtype| VitError::TensorType { path: path.clone(), name: name.to_owned(), dtype };
        let dtype = dtype.map_err(unread)?;
        let bytes = bytes.map_err(|source| VitError::Read { path: path.clone(), source })?;
        let values = floats(&bytes, dtype).ok_or_else(|| unread(format!("{dtype:?}")))?;
        let strange = values.iter().filter(|value| !value.is_finite()).count();
        if strange > 0 {
            let (path, name, count) = (path.clone(), name.to_owned(), values.len());
            return Err(VitError::NotFinite { path, name, strange, count });
        }
        Ok(values)
    }

    /// Checks that tensor `name` exists with `shape`.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.expect(name, shape).map(|_| ())
    }

    fn expect(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let (path, name) = (self.path.clone(), name.to_owned());
        match self.entries.get(&name) {
            None => Err(VitError::MissingTensor { path, name, expected: shape.to_vec() }),
            Some(entry) if entry.shape != shape => {
                let (found, expected) = (entry.shape.clone(), shape.to_vec());
                Err(VitError::TensorShape { path, name, found, expected })
            }
            Some(entry) => Ok(entry),
        }
    }

    fn add(&mut self, path: &Path, kind: FileKind) -> Result<()> {
        match kind {
            FileKind::Safetensors => self.add_safetensors(path),
            FileKind::Torch => self.add_pickle(path),
            FileKind::Index => {
                Err(VitError::NotWeights { path: path.to_owned(), what: "another index".into() })
            }
        }
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        let unread = |source| VitError::Read { path: path.to_owned(), source };
        let damaged = |reason: String| VitError::Safetensors { path: path.to_owned(), reason };
        let mut file = File::open(path).map_err(unread)?;
        let length = file.metadata().map_err(unread)?.len();
        // The length of the header (8 bytes), the header, then the tensors.
        let short = || damaged("the file is shorter than its header".into());
        if length < 8 {
            return Err(short());
        }
        let header = read_range(&mut file, 0..8).map_err(unread)?;
        let header = u64::from_le_bytes(header.try_into().expect("8 bytes were read"));
        if header > MAX_HEADER_BYTES {
            return Err(damaged("its header is too large".into()));
        }
        let data = 8 + header;
        if data > length {
            return Err(short());
        }
        let header = read_range(&mut file, 8..data).map_err(unread)?;
        // Checks that tensors follow one another, and that their lengths match their shapes.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
        if data + metadata.data_len() as u64 != length {
            return Err(damaged("its length is not what its header says".into()));
        }
        self.stated.extend(metadata.metadata().clone().unwrap_or_default());
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let bytes = data + start as u64..data + end as u64;
            let at = StoredAt::Stored { file: self.files.len(), dtype: info.dtype, bytes };
            self.entries.insert(name, Entry { shape: info.shape.clone(), at });
        }
        self.files.push((path.to_owned(), Mutex::new(file)));
        Ok(())
    }

    fn add_pickle(&mut self, path: &Path) -> Result<()> {
        let damaged = |reason: String| VitError::Pickle { path: path.to_owned(), reason };
        let length =
            std::fs::metadata(path).map_err(|source| VitError::Read { path: path.to_owned(), source })?.len();
        let found = weights_in(pickle::tensors(path).map_err(damaged)?);
        if found.weights.is_empty() {
            return Err(damaged("it holds no tensors".into()));
        }
        // A tensor may repeat values of the file, so that a small file states any size.
        let bytes = found.weights.values().map(Pickled::bytes).fold(0, u64::saturating_add);
        let largest = found.beside.values().map(Pickled::bytes).max().unwrap_or(0);
        if bytes.max(largest) > length {
            let bytes = bytes.max(largest);
            return Err(damaged(format!("its tensors have {bytes} bytes, but the file has {length}")));
        }
        if let Some((key, others)) = found.taken {
            self.notes
                .push(format!("weights are those under '{key}', not those under '{}'", others.join("', '")));
        }
        let entry = |(name, tensor): (String, Pickled)| {
            let shape = tensor.shape().to_vec();
            (name, Entry { shape, at: StoredAt::Pickled { path: path.to_owned(), tensor } })
        };
        self.entries.extend(found.weights.into_iter().map(entry));
        self.beside.extend(found.beside.into_iter().map(entry));
        Ok(())
    }

    /// Adds the shards of an index as transformers writes it: `{"weight_map": {tensor: file}}`.
    fn add_shards(&mut self, path: &Path) -> Result<()> {
        let bad = |reason: String| VitError::Config { path: path.to_owned(), reason };
        let index = read_json(path)?;
        let places = index.get("weight_map").and_then(Value::as_object);
        let places = places.ok_or_else(|| bad("no 'weight_map'; download it again".into()))?;
        let mut shards = BTreeSet::new();
        for file in places.values() {
            // Only a file next to the index; a path that leads elsewhere is refused.
            let named = file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|n| n == *name));
            shards.insert(named.ok_or_else(|| bad(format!("{file} is not the name of a file beside it")))?);
        }
        for shard in shards {
            let file = path.with_file_name(shard);
            self.add(&file, FileKind::of(&file)?)?;
        }
        match places.keys().find(|name| !self.entries.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                let shard = &places[name];
                Err(bad(format!(
                    "tensor '{name}' is not in {shard}, which should hold it; download it again"
                )))
            }
        }
    }
}

/// The bytes of `range` in `file`.
fn read_range(file: &mut File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Little-endian `bytes` as f32; `None` for a type that is not read.
fn floats(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => words(bytes).map(f32::from_le_bytes).collect(),
        Dtype::F16 => words(bytes).map(|w| f16::from_le_bytes(w).to_f32()).collect(),
        Dtype::BF16 => words(bytes).map(|w| bf16::from_le_bytes(w).to_f32()).collect(),
        _ => return None,
    })
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|w| w.try_into().expect("chunks_exact gives N bytes"))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{TensorView, serialize};

    use super::*;

    /// A file of two tensors of two values each.
    fn stored() -> Vec<u8> {
        let values: Vec<u8> = [1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = || TensorView::new(Dtype::F32, vec![2], &values).unwrap();
        serialize([("a", tensor()), ("b", tensor())], None).unwrap()
    }

    /// With a mapped file, the read would end the process (SIGBUS).
    #[test]
    fn a_file_that_shrinks_while_it_is_open_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let bytes = stored();
        std::fs::write(&path, &bytes).unwrap();
        let files = WeightFiles::open(&path).unwrap();
        assert_eq!(files.read("b", &[2]).unwrap(), [1.0, 2.0]);
        File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64 - 4).unwrap();
        assert_eq!(files.read("a", &[2]).unwrap(), [1.0, 2.0]);
        let error = files.read("b", &[2]).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }

    #[test]
    fn a_file_of_another_length_than_its_header_says_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let whole = stored();
        let longer = [&whole[..], &[0]].concat();
        let mut huge = whole.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        for bytes in [&whole[..0], &whole[..7], &whole[..20], &whole[..whole.len() - 1], &longer, &huge] {
            std::fs::write(&path, bytes).unwrap();
            let error = WeightFiles::open(&path).err().expect("it is damaged").to_string();
            assert!(error.contains("is not a readable safetensors file"), "{error}");
        }
    }

    #[test]
    fn a_header_whose_tensor_ends_where_no_file_does_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        // The number of bits of the first overflows; the second is just below.
        for length in [u64::MAX, u64::MAX / 8] {
            let header =
                format!(r#"{{"a": {{"dtype": "U8", "shape": [{length}], "data_offsets": [0, {length}]}}}}"#);
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
            std::fs::write(&path, file).unwrap();
            let error = WeightFiles::open(&path).err().expect("it is damaged").to_string();
            assert!(error.contains("is not a readable safetensors file"), "{error}");
        }
    }
}
