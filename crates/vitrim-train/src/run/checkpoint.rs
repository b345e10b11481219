//! A run's checkpoint: a header and named tensors in one safetensors file.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adam::NamedTensor;
use crate::error::{Result, TrainError};

/// The checkpoint's file name in a run folder.
pub const FILE: &str = "checkpoint.safetensors";

/// Writes `header` and `tensors` to `path`, durably and atomically.
///
/// # Errors
/// If the file cannot be written.
///
/// # Panics
/// If two tensors have the same name.
pub fn save(path: &Path, header: &impl Serialize, tensors: &[NamedTensor]) -> Result<()> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says"))
    });
    let header = serde_json::to_string(header).expect("a checkpoint's header is plain data");
    let metadata = HashMap::from([("vitrim".to_owned(), header)]);
    let file = safetensors::serialize(views, Some(metadata)).expect("the names are distinct");
    Ok(vitrim_durable::replace(path, &file)?)
}

/// The bytes that [`save`] wrote; `None` if there is no file.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some).map_err(TrainError::file("read", path)),
    }
}

/// The header and the tensors in `bytes`, which were read from `path`.
///
/// # Errors
/// If they are damaged, or have a header of another kind.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(T, Vec<NamedTensor>)> {
    let bad = |reason: String| TrainError::Checkpoint {
        path: path.to_owned(),
        reason: format!("{reason} delete it to train from the start"),
    };
    let damaged = |e: safetensors::SafeTensorError| bad(format!("damaged ({e});"));
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get("vitrim"));
    let header = header.ok_or_else(|| bad("not a vitrim checkpoint;".into()))?;
    let other = |e| bad(format!("of another command or version ({e}); give another --out folder, or"));
    let header = serde_json::from_str(header).map_err(other)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let values =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
        (name, view.shape().to_vec(), values.collect())
    });
    Ok((header, tensors.collect()))
}
