//! The requests: one struct per verb, whose `Default` is the only place of its defaults.
//!
//! The command line fills a request with clap (feature `clap`: every request is an `Args`), Python from keywords. A
//! request gives its own command line ([`Request::command_line`]), which reports print. Requests are carried out
//! here, unless they train (crate `vitrim`) or draw (`vitrim-report`).

mod bench;
mod calibrate;
mod command;
mod compare;
mod data;
mod embed;
mod eval;
mod policy;
mod predict;

pub use bench::BenchRequest;
pub use calibrate::{CalibrateRequest, LossArgs, Prepared, calibrate_folder};
pub use command::{CommandLine, Request, as_text};
pub use compare::CompareRequest;
pub use data::{BackboneArgs, DataNotes, DatasetArgs, ImageArgs, named_images, note_opened, note_reading};
pub use embed::{Answers, EmbedRequest};
pub use eval::EvalRequest;
pub use policy::{KeepArgs, PolicyArgs};
pub use predict::{PredictRequest, VisualizeRequest};
