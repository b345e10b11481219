//! Stored weights: safetensors files, whole or in shards, and PyTorch's pickles.
//!
//! A pickle cannot run code: `pytorch-reader` knows the few classes that tensors are made of, and refuses all others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use pytorch_reader::{DType, PytorchReader};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use crate::error::{Result, VitError};

/// Largest header, bytes, as in the safetensors crate: its JSON is read into memory.
const MAX_HEADER: u64 = 100_000_000;

/// Prefixes under which a pickle may keep its weights, the most specific first; timm looks there too.
const NESTED: [&str; 5] = ["state_dict_ema.", "model_ema.", "state_dict.", "model.", "module."];

/// Stored tensors by name.
pub struct WeightFiles {
    /// The path that was opened: the file, or the index of shards.
    path: PathBuf,
    /// safetensors files. They are read tensor by tensor, not mapped. If another process shortens or rewrites a file,
    /// a read gives an error or another value; with a mapping, it would end the process or change data behind a
    /// reference.
    files: Vec<(PathBuf, Mutex<File>)>,
    entries: BTreeMap<String, Entry>,
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
        tensor: pytorch_reader::Tensor,
    },
}

impl WeightFiles {
    /// Opens a safetensors file, a pickle (`.pth`, `.pt`, `.bin`) or the index of several of either (`.json`).
    ///
    /// # Errors
    /// If a file cannot be read, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = WeightFiles { path: path.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => files.add_shards(path)?,
            Some("pth" | "pt" | "bin") => files.add_pickle(path)?,
            _ => files.add_safetensors(path)?,
        }
        Ok(files)
    }

    /// The file, or the index of shards.
    pub fn path(&self) -> &Path {
        &self.path
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
    /// If the tensor is missing, has another shape or a type that is not F32, F16 or BF16, or cannot be read.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry = self.expect(name, shape)?;
        let unread = |path: &Path, dtype: String| VitError::TensorType {
            path: path.to_owned(),
            name: name.to_owned(),
            dtype,
        };
        match &entry.at {
            StoredAt::Stored { file, dtype, bytes } => {
                let (path, file) = &self.files[*file];
                // The lock protects the file's position, which each read sets.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = read_range(&mut file, bytes.clone())
                    .map_err(|source| VitError::Read { path: path.clone(), source })?;
                floats(&bytes, *dtype).ok_or_else(|| unread(path, format!("{dtype:?}")))
            }
            StoredAt::Pickled { path, tensor } => {
                let dtype = match tensor.dtype() {
                    DType::F32 => Dtype::F32,
                    DType::F16 => Dtype::F16,
                    DType::BF16 => Dtype::BF16,
                    other => return Err(unread(path, format!("{other:?}"))),
                };
                let bytes = tensor.read().map_err(|source| VitError::Read { path: path.clone(), source })?;
                floats(&bytes, dtype).ok_or_else(|| unread(path, format!("{dtype:?}")))
            }
        }
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
        if header > MAX_HEADER {
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
        if !path.is_file() {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(VitError::Read { path: path.to_owned(), source });
        }
        let reader = PytorchReader::new(path).map_err(|e| damaged(e.to_string()))?;
        let mut tensors = reader.into_tensors();
        for nested in NESTED {
            if tensors.keys().any(|name| name.starts_with(nested)) {
                let inner = |(name, tensor): (String, pytorch_reader::Tensor)| {
                    name.strip_prefix(nested).map(|name| (name.to_owned(), tensor))
                };
                tensors = tensors.into_iter().filter_map(inner).collect();
            }
        }
        if tensors.is_empty() {
            return Err(damaged("it holds no tensors".into()));
        }
        for (name, tensor) in tensors {
            let shape = tensor.shape().to_vec();
            self.entries
                .insert(name, Entry { shape, at: StoredAt::Pickled { path: path.to_owned(), tensor } });
        }
        Ok(())
    }

    /// Adds the shards of an index as transformers writes it: `{"weight_map": {tensor: file}}`.
    fn add_shards(&mut self, path: &Path) -> Result<()> {
        let bad = |reason: String| VitError::Config { path: path.to_owned(), reason };
        let text =
            vitrim_text::read(path).map_err(|source| VitError::Read { path: path.to_owned(), source })?;
        let index: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
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
            match file.extension().and_then(|e| e.to_str()) {
                Some("safetensors") => self.add_safetensors(&file)?,
                _ => self.add_pickle(&file)?,
            }
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
}
