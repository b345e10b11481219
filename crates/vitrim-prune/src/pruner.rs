//! The interface of all pruners, learned or not.

use std::path::PathBuf;

use vitrim_vit::{Reduction, Site, Taps, View, VitError, VitSpec};

/// Key of an image. Random decisions depend on it, and so not on batching.
pub type ImageKey = u64;

/// Shorthand for results of this crate.
pub type Result<T, E = PruneError> = std::result::Result<T, E>;

/// Errors of pruners and policies.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The backbone returned an error.
    #[error(transparent)]
    Vit(#[from] VitError),
    /// A keep profile does not fit.
    #[error("keep profile: {0}")]
    KeepProfile(String),
    /// An invalid setting.
    #[error("{0}")]
    Setting(String),
    /// A policy was trained for another backbone.
    #[error(
        "{path}: trained for {trained_for}, not for this backbone ({given}); train a policy for it, or give the backbone it was trained for"
    )]
    OtherBackbone {
        /// The policy folder.
        path: PathBuf,
        /// The backbone that it was trained for.
        trained_for: String,
        /// The backbone that was given.
        given: String,
    },
    /// A policy folder is damaged or of another version.
    #[error("{path}: {reason}")]
    BadPolicy {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] vitrim_durable::FileError),
}

/// Called with (steps done, all) of a search; an error stops it.
pub type Tell<'t> = &'t mut dyn FnMut(usize, usize) -> Result<()>;

/// Decides, site by site, which tokens of a packed batch stay.
///
/// A decision depends on its arguments alone, so that several passes may use one pruner at once.
pub trait Pruner: Send + Sync {
    /// The sites where the pruner acts, in order, and the taps that it needs there.
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)>;

    /// The decision at the `stage`-th of the pruner's sites (counted from 0), for the images `keys: [B]`.
    ///
    /// # Errors
    /// If the view lacks a tap that the pruner needs.
    fn decide(&self, stage: usize, view: &View<'_>, keys: &[ImageKey]) -> Result<Reduction>;

    /// MACs of the pruner's own scoring of one image of `tokens` tokens (prefix tokens included) at `stage`.
    fn macs(&self, stage: usize, tokens: usize) -> u64;
}
