//! Faster Vision Transformers: learn which tokens of each image to throw away, and throw them away.
//!
//! This crate is the facade and the command line. `vitrim-vit` and `vitrim-prune` run a policy, `vitrim-measure`
//! measures it, `vitrim-train` trains it, and `vitrim-report` draws. Here, [`requests`] has the requests of the verbs
//! that train, and carries them out; [`training`] opens a run on a user's images; [`overlay`] applies a TOML file and
//! `--set` to a preset; [`bundled`] is the backbone of the demo, which needs no download; in [`shared_passes`], ranks measure
//! together.

pub mod bundled;
pub mod error;
pub mod overlay;
pub mod requests;
pub mod shared_passes;
pub mod training;

pub use error::{Result, VitrimError};
