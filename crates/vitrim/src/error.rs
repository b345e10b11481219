//! Errors of the commands.

use std::path::PathBuf;

use vitrim_measure::MeasureError;

/// Shorthand for results of this crate.
pub type Result<T, E = VitrimError> = std::result::Result<T, E>;

/// Errors of the commands; each message is one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VitrimError {
    /// Something could not be opened, measured or written.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// A page or a picture could not be made.
    #[error(transparent)]
    Report(#[from] vitrim_report::ReportError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] vitrim_train::TrainError),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] vitrim_ranks::RankError),
    /// A configuration is invalid.
    #[error(transparent)]
    Overlay(#[from] crate::overlay::OverlayError),
    /// A run was asked to stop; the text says what is saved, and where.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// An invalid setting.
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

impl VitrimError {
    /// Whether the work was asked to stop.
    pub fn is_interruption(&self) -> bool {
        match self {
            VitrimError::Measure(error) => error.is_interruption(),
            VitrimError::Report(error) => error.is_interruption(),
            VitrimError::Interrupted(_) => true,
            _ => false,
        }
    }
}

/// Converts an error of a lower crate by way of [`MeasureError`].
macro_rules! from_below {
    ($($error:ty),+) => {
        $(impl From<$error> for VitrimError {
            fn from(error: $error) -> Self {
                VitrimError::Measure(error.into())
            }
        })+
    };
}

from_below!(
    vitrim_vit::VitError,
    vitrim_prune::PruneError,
    vitrim_data::DataError,
    vitrim_durable::FileError,
    vitrim_durable::LockError,
    vitrim_hub::HubError,
    vitrim_measure::statistics::StatsError
);
