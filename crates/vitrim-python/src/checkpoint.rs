//! Weights that live in Python, written as a checkpoint folder for the one way in that there is.

use std::borrow::Cow;
use std::path::PathBuf;

use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use safetensors::tensor::{Dtype, View, serialize_to_file};

use crate::refusal::refused;

/// An array of Python's as safetensors writes it.
struct Weights<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Weights<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// Writes config.json and model.safetensors into a folder: `tensors` are C-contiguous arrays of float32 by name.
#[pyfunction]
pub fn write_checkpoint(
    folder: PathBuf,
    config: &str,
    tensors: Vec<(String, Bound<'_, PyArrayDyn<f32>>)>,
) -> PyResult<()> {
    let arrays: Vec<(String, PyReadonlyArrayDyn<'_, f32>)> = tensors
        .iter()
        .map(|(name, array)| Ok((name.clone(), array.try_readonly()?)))
        .collect::<PyResult<_>>()?;
    let views: Vec<(&str, Weights<'_>)> = arrays
        .iter()
        .map(|(name, array)| Ok((name.as_str(), Weights { shape: array.shape(), values: array.as_slice()? })))
        .collect::<PyResult<_>>()?;
    std::fs::write(folder.join("config.json"), config).map_err(refused)?;
    serialize_to_file(views, None, &folder.join("model.safetensors")).map_err(refused)
}
