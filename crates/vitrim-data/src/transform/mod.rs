//! From a decoded image to the pixels that a backbone takes: crop and normalise, and changes between the two.

mod augment;
mod corruption;
mod evaluation;
mod preprocess;
mod processor;

pub use augment::Augment;
pub use corruption::Corruption;
pub use evaluation::Transform;
pub use preprocess::{CropMode, Interpolation, Preprocess};
