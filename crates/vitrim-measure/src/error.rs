//! Errors of measuring.

use std::path::PathBuf;

use vitrim_ranks::RankError;

/// Shorthand for results of this crate.
pub type Result<T, E = MeasureError> = std::result::Result<T, E>;

/// Errors of opening, evaluating and calibrating; each message is one line that says what,
/// where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A backbone could not be read or run.
    #[error(transparent)]
    Vit(#[from] vitrim_vit::VitError),
    /// A pruner or a policy refused.
    #[error(transparent)]
    Prune(#[from] vitrim_prune::PruneError),
    /// Images could not be read.
    #[error(transparent)]
    Data(#[from] vitrim_data::DataError),
    /// An `hf://` reference could not be fetched.
    #[error(transparent)]
    Hub(#[from] vitrim_hub::HubError),
    /// A statistic could not be computed.
    #[error(transparent)]
    Stats(#[from] crate::statistics::StatsError),
    /// A front could not be used.
    #[error(transparent)]
    Front(#[from] crate::front::FrontError),
    /// The given model is neither a folder nor a name.
    #[error("{given}: no such checkpoint folder, and no timm name that vitrim knows ({reason})")]
    NoSuchModel {
        /// The model that was given.
        given: String,
        /// Why it is not a name.
        reason: String,
    },
    /// The classes of the data and of the backbone differ.
    #[error(
        "{data}: has {found} classes{empty}, but the backbone ({model}) has {classes}; give the data that it was trained for, --label-map FILE, or a folder of images without class folders"
    )]
    Classes {
        /// The data set.
        data: String,
        /// Number of classes of the data set.
        found: usize,
        /// Which of them have no images, in brackets; empty if all have some.
        empty: String,
        /// The backbone.
        model: String,
        /// The backbone's classes.
        classes: usize,
    },
    /// The data set has no images for the requested part.
    #[error("{data}: {reason}")]
    Part {
        /// The data set.
        data: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// A policy folder has an invalid value, or lacks what is asked for.
    #[error("{path}: {reason}")]
    Policy {
        /// The policy folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A run folder lacks something, or has an invalid value.
    #[error("{path}: {reason}")]
    Run {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An invalid setting.
    #[error("{0}")]
    Setting(String),
    /// A file could not be replaced.
    #[error(transparent)]
    Replace(#[from] vitrim_durable::FileError),
    /// A folder could not be locked.
    #[error(transparent)]
    Lock(#[from] vitrim_durable::LockError),
    /// A folder could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(RankError),
    /// The work was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<RankError> for MeasureError {
    fn from(error: RankError) -> Self {
        match error {
            RankError::Interrupted(_) => MeasureError::Interrupted,
            error => MeasureError::Ranks(error),
        }
    }
}

impl MeasureError {
    /// Whether the work was asked to stop.
    pub fn is_interruption(&self) -> bool {
        use vitrim_prune::PruneError;
        use vitrim_vit::VitError::Interrupted;
        matches!(
            self,
            MeasureError::Interrupted
                | MeasureError::Vit(Interrupted)
                | MeasureError::Prune(PruneError::Vit(Interrupted))
        )
    }
}
