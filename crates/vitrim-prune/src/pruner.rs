//! The seam: anything that decides who stays, learned or not.

use std::path::PathBuf;

use vitrim_vit::{Reduction, Site, Taps, View, VitError, VitSpec};

/// Identifies an image, so that random decisions depend on it and not on batching.
pub type ImageKey = u64;

/// Shorthand for results of this crate.
pub type Result<T, E = PruneError> = std::result::Result<T, E>;

/// Errors of pruners and policies.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The backbone refused.
    #[error(transparent)]
    Vit(#[from] VitError),
    /// A keep profile does not fit.
    #[error("keep profile: {0}")]
    KeepProfile(String),
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
    /// A policy was trained for another backbone.
    #[error(
        "{path}: trained for {trained_for}, not for this backbone ({given}); train a policy for it, or give the backbone it was trained for"
    )]
    OtherBackbone {
        /// The policy folder.
        path: PathBuf,
        /// What it was trained for.
        trained_for: String,
        /// What it was given.
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

/// Decides, site by site, which tokens of a packed batch stay.
///
/// A decision depends on its arguments alone, so that several passes may ask one pruner at once.
pub trait Pruner: Send + Sync {
    /// Where it acts, in order, and what it wants to see there.
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)>;

    /// The decision at the `stage`-th of its sites, about the images `keys: [B]`.
    ///
    /// # Errors
    /// If the view lacks what was asked for.
    fn decide(&self, stage: usize, view: &View<'_>, keys: &[ImageKey]) -> Result<Reduction>;

    /// MACs of its own scoring of one image of `tokens` tokens (prefix tokens included) at `stage`.
    fn macs(&self, stage: usize, tokens: usize) -> u64;
}
