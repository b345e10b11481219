//! Writes weights from Python as a checkpoint folder, which is then opened like any other; and lists the attributes
//! of a live timm module that give its configuration.

use std::borrow::Cow;
use std::path::PathBuf;

use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use vitrim_vit::families::{Live, timm_classes, timm_module};

use crate::refusal::refused;

/// An argument of timm, how to read it from a live module, and the paths of the attributes.
type Question = (&'static str, &'static str, Vec<&'static str>);

/// The architecture of a module without a name, and the questions for a module; `classes` are its class and that
/// class's bases, in Python's order.
#[pyfunction]
pub fn timm_questions(classes: Vec<String>) -> PyResult<(&'static str, Vec<Question>)> {
    let module = timm_module(classes.iter().map(String::as_str)).ok_or_else(|| {
        let name = classes.first().map_or("it", String::as_str);
        let known = timm_classes().join(", ");
        PyTypeError::new_err(format!(
            "{name} is no timm VisionTransformer of plain blocks (taken are: {known})"
        ))
    })?;
    let question = |live: Live| match live {
        Live::Unknown => None,
        Live::Value(path) => Some(("value", vec![path])),
        Live::First(paths) => Some(("first", paths.to_vec())),
        Live::Length(path) => Some(("length", vec![path])),
        Live::Class(path) => Some(("class", vec![path])),
        Live::Built(path) => Some(("built", vec![path])),
        Live::AnyBuilt(paths) => Some(("any", paths.to_vec())),
        Live::Ratio(over, under) => Some(("ratio", [over, &[under]].concat())),
    };
    let asked = module.arguments.iter().filter_map(|argument| {
        let (how, paths) = question(argument.live)?;
        Some((argument.name, how, paths))
    });
    Ok((module.unnamed, asked.collect()))
}

/// A Python array for safetensors.
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
