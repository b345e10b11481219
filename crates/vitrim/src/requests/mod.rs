//! The requests of the verbs that train. They are carried out in the same way for the command line and for Python.
//! The other verbs' requests are in [`vitrim_measure::requests`].

mod backbone;
mod demo;
mod metric;
mod train;

pub use backbone::{BackboneRunArgs, FinetuneRequest, Finetuned, OverlayArgs, PretrainRequest};
pub use demo::DemoRequest;
pub use metric::{TrainMetricRequest, TrainedMetric};
pub use train::{TrainRequest, Trained, ground, learn};
