//! What a pickled model remembers, so that it can be loaded again in another process and another working folder.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use vitrim_hub::is_reference;
use vitrim_prune::policy::UNIVERSAL;

use crate::refusal::refused;

/// `path` as it can be opened from any working folder: an `hf://` reference and the bundled policy stay as they are.
///
/// # Errors
/// If the working folder cannot be told.
pub fn lasting(path: &Path) -> PyResult<PathBuf> {
    if is_reference(path) || path == Path::new(UNIVERSAL) {
        return Ok(path.to_owned());
    }
    std::path::absolute(path).map_err(|error| refused(format!("{}: {error}", path.display())))
}

/// The exception for a model whose weights came from memory: `origin` cannot be opened.
pub fn in_memory(py: Python<'_>, origin: &str) -> PyErr {
    let message = format!(
        "{origin} was made from a module in memory, and there is nothing to load it again from; save the module as a \
         checkpoint folder and give that to vitrim.load"
    );
    match py.import("pickle").and_then(|pickle| pickle.getattr("PicklingError")?.call1((message,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
