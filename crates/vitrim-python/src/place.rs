//! Where models, policies and data sets are.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::refusal::refused;

/// The local folder or file that `given` (a string or an `os.PathLike`) names.
///
/// The one place that an `hf://` address has to pass.
///
/// # Errors
/// If it is neither, or an address that this build cannot fetch.
pub fn local(given: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let path: PathBuf = given.extract()?;
    if path.to_string_lossy().starts_with("hf:") {
        return Err(refused(format!(
            "{}: addresses on the Hub cannot be fetched yet; download it and give its folder",
            path.display()
        )));
    }
    Ok(path)
}
