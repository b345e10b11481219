//! What a pruned Vision Transformer loses and gains, measured on a user's images and machine.
//!
//! It takes a backbone ([`Loaded`]), a pruner (a policy that [`open_policy`](model::open_policy) reads, or a hand-made
//! method) and images ([`images`]), and answers the user's one question, "how much faster within this loss of accuracy?":
//! [`requests`] holds what each verb is asked, with its defaults. [`calibrate`] finds the threshold that held-out images certify, [`evaluate`] compares it with the hand-made methods,
//! [`mod@compare`] does so over whole fronts, [`speed`] times it. Beneath them, [`metrics`] counts, [`statistics`] says what
//! a measured loss is worth, and [`front`] chooses the cheapest setting. [`predict`] uses a policy on single images.
//!
//! Every measurement is one pass over a data set ([`passes`]): the dense model and, from the same prefix, what is set beside it.
//! Nothing here trains, draws or parses a command line; the feature `clap` makes the requests clap's `Args`.

pub mod calibrate;
pub mod compare;
pub mod error;
pub mod evaluate;
pub mod examples;
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
