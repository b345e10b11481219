//! What the verbs that train are asked, and how they are carried out, alike for the command line and for Python. The other
//! verbs' requests are in [`vitrim_measure::requests`].

mod backbone;
mod demo;
mod train;

pub use backbone::{BackboneRunArgs, FinetuneRequest, Finetuned, OverlayArgs, PretrainRequest};
pub use demo::DemoRequest;
pub use train::{TrainRequest, Trained, learn};
