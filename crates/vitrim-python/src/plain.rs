//! Figures as plain Python objects.

use pyo3::prelude::*;
use serde::Serialize;

use crate::refusal::refused;

/// `value` as dictionaries, lists, numbers and strings, with the names of the command line's `--json`.
///
/// # Errors
/// Never for the library's own figures.
pub fn plain<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(refused)?;
    py.import("json")?.call_method1("loads", (text,))
}
