//! Files that `torch.save` wrote: zip archives and pickles in a row. The only module that knows the
//! crate `pytorch-reader`, which is a pre-release.
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

/// A tensor of such a file. Its values are read on demand.
pub(super) struct Pickled(pytorch_reader::Tensor);

impl Pickled {
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The data type, or its name if it is none that is read.
    pub fn dtype(&self) -> Result<Dtype, String> {
        match self.0.dtype() {
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
        self.0.read()
    }

    /// The number of values' bytes; the largest number if it is larger.
    pub fn bytes(&self) -> u64 {
        let factors = self.shape().iter().copied().chain([self.0.dtype().size()]).map(|n| n as u64);
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
    let reader = PytorchReader::new(path).map_err(|e| e.to_string())?;
    Ok(reader.into_tensors().into_iter().map(|(name, tensor)| (name, Pickled(tensor))).collect())
}
