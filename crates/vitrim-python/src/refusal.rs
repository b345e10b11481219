//! Errors of the library as Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use vitrim::VitrimError as LibraryError;

create_exception!(
    vitrim,
    VitrimError,
    PyValueError,
    "What vitrim refuses: one line that says what is wrong, where, and what to do."
);

/// `error` as one line of a [`VitrimError`].
pub fn refused(error: impl std::fmt::Display) -> PyErr {
    let line = error.to_string();
    VitrimError::new_err(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// An error of the library: an interruption becomes Python's own, every other error a [`VitrimError`].
pub fn from_library(error: impl Into<LibraryError>) -> PyErr {
    let error = error.into();
    if error.is_interruption() { PyKeyboardInterrupt::new_err(()) } else { refused(error) }
}
