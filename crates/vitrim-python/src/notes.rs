//! Notes about downloads, such as that the Hub does not answer and the cache is used, on Python's stderr.

use std::ops::ControlFlow;

use pyo3::prelude::*;
use vitrim_hub::{DownloadEvent, observe};

/// Writes notes of all later downloads of this process to `sys.stderr`.
pub fn pass_on_notes() {
    observe(|event| {
        if let DownloadEvent::Note(note) = event {
            // A note that cannot be written, because there is no stderr, is not worth an exception.
            let _ = Python::attach(|py| -> PyResult<()> {
                py.import("sys")?.getattr("stderr")?.call_method1("write", (format!("{note}\n"),))?;
                Ok(())
            });
        }
        ControlFlow::Continue(())
    });
}
