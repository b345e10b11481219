//! What each verb is asked: one struct a verb, whose `Default` is the only place of its defaults.
//!
//! The command line fills a request with clap (feature `clap`: every request is an `Args`), Python from keywords. A
//! request gives the command line that asks for the same again ([`Request::command_line`]), which reports print, and is
//! carried out here unless it trains (crate `vitrim`) or draws (`vitrim-report`).

mod bench;
mod calibrate;
mod command;
mod compare;
mod data;
mod eval;
mod policy;
mod predict;

pub use bench::BenchRequest;
pub use calibrate::{CalibrateRequest, LossArgs, calibrate_folder};
pub use command::{CommandLine, Request, as_text};
pub use compare::CompareRequest;
pub use data::{DatasetArgs, ImageArgs, SizeArgs, named_images, note_reading};
pub use eval::EvalRequest;
pub use policy::{KeepArgs, PolicyArgs, pruner};
pub use predict::{PredictRequest, VisualizeRequest};
