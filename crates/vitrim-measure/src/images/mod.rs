//! The images of a measurement, and the classes of their labels.

mod parts;
mod reading;

pub use parts::{DataParts, OnProgress, name};
pub use reading::Reading;
