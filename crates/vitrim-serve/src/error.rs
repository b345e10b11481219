//! Errors of starting a server.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;

/// Why a server does not start or run; each message is one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A model or a policy could not be opened.
    #[error("model {name}: {source}")]
    Model {
        /// The model's name.
        name: String,
        /// Why.
        source: Box<vitrim_measure::MeasureError>,
    },
    /// An invalid setting.
    #[error("{0}")]
    Setting(String),
    /// A file of settings could not be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The operating system refused something that the server needs.
    #[error("{0}")]
    System(#[from] std::io::Error),
}
