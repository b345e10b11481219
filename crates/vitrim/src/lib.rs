//! Faster Vision Transformers: learn which tokens of each image to throw away, and throw them away.
//!
//! This crate is what a user runs. It takes a backbone, a pruner and images, and answers the
//! user's one question, "how much faster within this drop?": [`stats`] says what a measured drop
//! is worth, [`front`] chooses the cheapest setting that the images certify, [`picture`] shows
//! which patches survive, and [`overlay`] lays a TOML file and `--set` over a preset. The game that
//! trains a policy is in `vitrim-train`; the engine that runs one is in `vitrim-vit` and
//! `vitrim-prune`.

pub mod front;
pub mod overlay;
pub mod picture;
pub mod stats;
