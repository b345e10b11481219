//! Faster Vision Transformers: learn which tokens of each image to throw away, and throw them away.
//!
//! This crate is what a user runs. It takes a backbone ([`loaded`]), a pruner ([`methods`], or learned in a
//! run that [`training`] opens) and images ([`parts`], [`reading`]), and answers the user's one question, "how much faster
//! within this drop?": [`calibrate`] finds the threshold that held-out images certify, [`evaluate`] compares it
//! with the hand-made methods, [`mod@compare`] does so over whole fronts, [`mod@bench`] times it (on
//! [`bench_images`], with [`budgets`] of its own, and against [`peak_memory`]). Beneath them, [`tally`] counts,
//! [`speed`] times, [`stats`] says
//! what a measured drop is worth, and [`front`] chooses the cheapest setting. [`predict`] (classes, or [`mod@features`]) and [`visualize`]
//! (with [`picture`]) use a policy on single images, [`mod@report`] lays out what a run folder holds as a
//! page, [`mod@export`] writes a policy and its [`model_card`] for the Hub, [`info`] needs no policy, [`dtype`] spells a precision, and [`overlay`] lays a TOML file and `--set`
//! over a preset. The game that trains a policy is in `vitrim-train`; the engine that runs one is in
//! `vitrim-vit` and `vitrim-prune`.

pub mod bench;
pub mod bench_images;
pub mod budgets;
pub mod bundled;
pub mod calibrate;
pub mod compare;
pub mod dtype;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod features;
pub mod front;
pub mod gather;
pub mod info;
pub mod loaded;
pub mod methods;
pub mod model_card;
pub mod overlay;
pub mod parts;
pub mod peak_memory;
pub mod picture;
pub mod predict;
pub mod reading;
pub mod report;
pub mod speed;
pub mod stats;
pub mod tally;
pub mod training;
pub mod visualize;
pub mod watch;

pub use calibrate::Calibration;
pub use error::{Result, VitrimError};
pub use loaded::Loaded;
pub use methods::Method;
pub use watch::Watch;
