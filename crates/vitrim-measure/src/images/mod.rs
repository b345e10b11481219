//! Which images, and whose classes their labels are.

mod parts;
mod reading;

pub use parts::{DataParts, OnProgress, name};
pub use reading::Reading;
