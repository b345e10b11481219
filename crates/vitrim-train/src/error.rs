//! Errors of training.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Errors of training; each message is one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An unknown name of a device.
    #[error("unknown device '{0}'; use 'cpu' or 'gpu'")]
    UnknownDevice(String),
    /// The type is neither `f32` nor `bf16`.
    #[error("weights are written in f32 or bf16, not in '{0}'")]
    UnknownWeightType(String),
    /// The build cannot use a GPU.
    #[error("this build has no GPU support; build with `--features vulkan`, or use the device 'cpu'")]
    NoGpuSupport,
    /// A saved learner lacks a tensor, or has it in another shape.
    #[error(
        "the saved learner has no tensor '{name}' of shape {expected:?}; it belongs to another actor or critic"
    )]
    LearnerState {
        /// The tensor's name.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A backbone could not be built or run.
    #[error(transparent)]
    Vit(#[from] vitrim_vit::VitError),
    /// A pruner or policy refused.
    #[error(transparent)]
    Prune(#[from] vitrim_prune::PruneError),
    /// The images could not be read.
    #[error(transparent)]
    Data(#[from] vitrim_data::DataError),
    /// TensorBoard's files could not be written.
    #[error(transparent)]
    Tensorboard(#[from] crate::run::tensorboard::TensorboardError),
    /// The backbone takes images of many sizes.
    #[error(
        "{0} gives each image a grid of its own (NaFlex), and training by gradients needs images of one size; \
         `vitrim train` learns a policy by reinforcement"
    )]
    ManySizes(String),
    /// The configuration contradicts itself or the backbone.
    #[error("configuration: {0}")]
    Config(String),
    /// The training pass and the inference pass gave different answers.
    #[error(
        "the training and inference passes differ by {0:.1e}, more than rounding explains: this is a bug of vitrim; please \
         report it with the command"
    )]
    Disagreement(f32),
    /// A step whose loss or gradient is no number.
    #[error(
        "step {0}: the loss or its gradient is NaN or infinite; lower learning_rate, or check the weights of the backbone"
    )]
    NotFinite(usize),
    /// A label for which the backbone has no class.
    #[error(
        "an image has label {label}, but the backbone has only {classes} classes; give the data that it was trained for"
    )]
    Label {
        /// The label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// An image without a label, in training that needs labels.
    #[error("{0} has no label; pre-training needs one for every image")]
    NoLabel(String),
    /// The data set has no image that can be used.
    #[error("no usable training image; check --data and its split")]
    NoImages,
    /// A checkpoint cannot be resumed.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file could not be replaced.
    #[error(transparent)]
    Replace(#[from] vitrim_durable::FileError),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] vitrim_ranks::RankError),
    /// A rank has learned something else than the others.
    #[error(
        "rank {0} has come to another policy than rank 0, because their processors compute differently; set \
         VITRIM_SIMD=avx2 on all of them, and run the same command again"
    )]
    OtherPolicy(usize),
    /// The run folder could not be locked.
    #[error(transparent)]
    Lock(#[from] vitrim_durable::LockError),
    /// A file of the run could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// "create", "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

impl TrainError {
    /// An error constructor for `map_err` on operations on `path`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.to_owned();
        move |source| TrainError::File { action, path, source }
    }
}
