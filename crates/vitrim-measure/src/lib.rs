//! Measures what a pruned Vision Transformer loses and gains, on a user's images and machine.
//!
//! The input is a backbone ([`Loaded`]), a pruner (a policy that [`open_policy`](model::open_policy) reads, or a
//! hand-made method) and images ([`images`]). The question is: how much faster within this loss of accuracy?
//! [`requests`] has the request of each verb, with its defaults. [`calibrate`] finds the threshold that held-out
//! images certify, [`evaluate`] compares it with the hand-made methods, [`mod@compare`] compares whole fronts, and
//! [`speed`] measures times. [`metrics`] counts, [`statistics`] computes bounds and intervals, and [`front`] chooses
//! the cheapest setting. [`predict`] applies a policy to single images, [`mod@embed`] to whole data sets.
//!
//! Every measurement is one pass over a data set ([`passes`]): the dense model and, from the same prefix, the pruned
//! ones. Other processes can measure its batches ([`elsewhere`]). This crate does not train, draw or parse a command line; with the feature `clap`, the requests implement
//! clap's `Args`.

pub mod calibrate;
pub mod compare;
pub mod elsewhere;
pub mod embed;
pub mod error;
pub mod evaluate;
pub mod examples;
pub mod fits;
pub mod front;
pub mod fronts;
pub mod images;
pub mod metrics;
pub mod model;
pub mod passes;
pub mod predict;
pub mod progress;
pub mod requests;
pub mod seen;
pub mod speed;
pub mod statistics;

pub use calibrate::Calibration;
pub use error::{MeasureError, Result};
pub use model::Loaded;
pub use progress::{Listener, Progress};
