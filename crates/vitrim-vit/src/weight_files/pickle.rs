//! Files that `torch.save` or `torch.jit.save` (`script.rs`) wrote: zip archives and pickles in a row. The only module that
//! knows the crate `pytorch-reader`, which is a pre-release.
//!
//! A pickle cannot run code: the crate builds the few classes that tensors are made of. Others (`argparse.Namespace`,
//! paths, NumPy's scalars) are skipped without being made, and a file in which one of them has tensors is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use pytorch_reader::{DType, PytorchReader};
use safetensors::Dtype;

use super::kind::ZIP;
use super::opcodes;
use super::script::{self, Scripted};

/// A tensor of such a file. Its values are read on demand.
pub(super) enum Pickled {
    Saved(pytorch_reader::Tensor),
    Scripted(Scripted),
}

impl Pickled {
    pub fn shape(&self) -> &[usize] {
        match self {
            Pickled::Saved(tensor) => tensor.shape(),
            Pickled::Scripted(tensor) => &tensor.shape,
        }
    }

    /// The data type, or its name if it is none that is read.
    pub fn dtype(&self) -> Result<Dtype, String> {
        let saved = match self {
            Pickled::Saved(tensor) => tensor.dtype(),
            Pickled::Scripted(tensor) => return Ok(tensor.dtype),
        };
        match saved {
            DType::F32 => Ok(Dtype::F32),
            DType::F16 => Ok(Dtype::F16),
            DType::BF16 => Ok(Dtype::BF16),
            other => Err(format!("{other:?}")),
        }
    }

    /// The values' bytes, little-endian.
    ///
    /// # Errors
    /// If the file cannot be read, or is too short.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Pickled::Saved(tensor) => tensor.read(),
            Pickled::Scripted(tensor) => tensor.read(),
        }
    }

    /// The number of values' bytes; the largest number if it is larger.
    pub fn bytes(&self) -> u64 {
        let size = match self {
            Pickled::Saved(tensor) => tensor.dtype().size(),
            Pickled::Scripted(tensor) => tensor.dtype.bitsize() / 8,
        };
        let factors = self.shape().iter().copied().chain([size]).map(|n| n as u64);
        factors.fold(1, u64::saturating_mul)
    }
}

/// The tensors of the file `path`, by the keys that lead to them, joined by dots.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn tensors(path: &Path) -> Result<BTreeMap<String, Pickled>, String> {
    let mut start = [0; ZIP.len()];
    let is_archive =
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == ZIP;
    opcodes::check(path, is_archive).map_err(|e| e.to_string())?;
    if is_archive && let Some(scripted) = script::tensors(path)? {
        return Ok(scripted.into_iter().map(|(name, tensor)| (name, Pickled::Scripted(tensor))).collect());
    }
    let reader = PytorchReader::new(path).map_err(|e| e.to_string())?;
    Ok(reader.into_tensors().into_iter().map(|(name, tensor)| (name, Pickled::Saved(tensor))).collect())
}
