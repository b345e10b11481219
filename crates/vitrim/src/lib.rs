//! Faster Vision Transformers: learn which tokens of each image to throw away, and throw them away.
//!
//! This crate is the facade and the command line. What runs a policy is in `vitrim-vit` and `vitrim-prune`, what measures
//! it in `vitrim-measure`, what trains it in `vitrim-train`, what draws in `vitrim-report`. Here they meet: [`requests`]
//! holds what the verbs that train are asked and carries it out, [`training`] opens a run on a user's images, [`overlay`] lays a TOML file and `--set` over a preset, [`bundled`] is the backbone that
//! the demo needs no download for.

pub mod bundled;
pub mod error;
pub mod overlay;
pub mod requests;
pub mod training;

pub use error::{Result, VitrimError};
