//! Errors of reading a checkpoint and running a backbone.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = VitError> = std::result::Result<T, E>;

/// Errors of checkpoints and backbones; each message says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum VitError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The folder is not a checkpoint in the layout of the Hugging Face Hub.
    #[error("{path} is not a checkpoint: {reason}")]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// `config.json` has an invalid value.
    #[error("{path}: {reason}")]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The architecture is none of those that vitrim runs.
    #[error("unsupported architecture '{name}'{missing}; supported: {supported}")]
    UnsupportedArchitecture {
        /// The architecture that was asked for.
        name: String,
        /// What it needs that is not run, after a colon; empty if that is not known.
        missing: String,
        /// The supported architectures.
        supported: String,
    },
    /// The geometry contradicts itself.
    #[error("impossible geometry: {0}")]
    Geometry(String),
    /// The weights file is damaged.
    #[error("{path} is not a readable safetensors file ({reason}); download it again")]
    Safetensors {
        /// The weights file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A pickle is damaged, or holds more than tensors.
    #[error(
        "{path} is not a readable PyTorch file ({reason}); download it again, or save its state_dict alone"
    )]
    Pickle {
        /// The weights file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// The file stands for one that Git LFS stores elsewhere.
    #[error(
        "{path} is a Git LFS pointer, not the file itself; fetch it (`git lfs pull` in its repository), or download it"
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another kind than weights.
    #[error("{path} is {what}; vitrim reads weights from safetensors files and from what torch.save writes")]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// A tensor has values that no trained backbone has.
    #[error(
        "{path}: tensor '{name}' has {strange} values of {count} that are NaN or infinite; give a checkpoint from before training diverged"
    )]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Number of such values.
        strange: usize,
        /// Number of all values.
        count: usize,
    },
    /// Two stored tensors may be the same tensor of the backbone.
    #[error(
        "{path}: '{}' and '{}' may both be tensor '{name}'; save the state_dict of the one model that you want",
        stored[0], stored[1]
    )]
    SameTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The names in the file.
        stored: [String; 2],
    },
    /// A tensor that the geometry needs is missing.
    #[error(
        "{path} has no tensor '{name}' of shape {expected:?}; the checkpoint does not match its config.json"
    )]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the geometry says.
    #[error("{path}: tensor '{name}' has shape {found:?}, but config.json implies {expected:?}")]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape found.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// A tensor has a type that is not a floating point type vitrim reads.
    #[error("{path}: tensor '{name}' is {dtype}; vitrim reads F32, F16 and BF16")]
    TensorType {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// The file holds tensors that the architecture does not have.
    #[error(
        "{path}: {count} tensors are not part of this architecture, the first is '{first}'; is the architecture in config.json right?"
    )]
    SurplusTensors {
        /// The weights file.
        path: PathBuf,
        /// Number of such tensors.
        count: usize,
        /// The first of them by name.
        first: String,
    },
    /// A file of text embeddings cannot be read, lacks something, or does not fit the backbone.
    #[error("{path}: {reason}")]
    TextClasses {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An input does not fit the backbone.
    #[error("{0}")]
    Input(String),
    /// The pass was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Threads cannot be started.
    #[error("{count} threads cannot be started: {reason}; ask for fewer")]
    Threads {
        /// Number of threads; 0 means one per processor.
        count: usize,
        /// The operating system's message.
        reason: String,
    },
    /// A reduction does not fit the packed batch.
    #[error("invalid reduction: {0}")]
    Reduction(String),
    /// The state would have to move backwards, or beyond the network's end.
    #[error("cannot advance from {from} to {to}: a state only moves forward, up to block {depth}")]
    Backwards {
        /// Site of the state.
        from: String,
        /// Site that was asked for.
        to: String,
        /// Number of blocks.
        depth: usize,
    },
}
