//! Errors of pages and pictures.

use std::path::PathBuf;

use vitrim_measure::MeasureError;

/// Shorthand for results of this crate.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;

/// Errors of reports, pictures and model cards; each message is one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The figures of the page could not be measured or read.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// A picture could not be drawn.
    #[error(transparent)]
    Picture(#[from] crate::picture::PictureError),
    /// A run folder lacks something, or has an invalid value.
    #[error("{path}: {reason}")]
    Run {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An invalid setting: a plot, a picture or a card cannot be made, or not at the requested path.
    #[error("{0}")]
    Setting(String),
    /// A folder could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

impl ReportError {
    /// Whether the work was asked to stop.
    pub fn is_interruption(&self) -> bool {
        matches!(self, ReportError::Measure(error) if error.is_interruption())
    }
}

/// Converts an error of a lower crate by way of [`MeasureError`].
macro_rules! from_below {
    ($($error:ty),+) => {
        $(impl From<$error> for ReportError {
            fn from(error: $error) -> Self {
                ReportError::Measure(error.into())
            }
        })+
    };
}

from_below!(
    vitrim_vit::VitError,
    vitrim_prune::PruneError,
    vitrim_data::DataError,
    vitrim_durable::FileError,
    vitrim_hub::HubError,
    vitrim_measure::statistics::StatsError
);
