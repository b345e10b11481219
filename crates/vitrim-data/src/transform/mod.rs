//! From a decoded image to the backbone's input: crop, changes, normalisation.

mod augment;
mod corruption;
mod evaluation;
mod naflex;
mod preprocess;
mod processor;

pub use augment::Augment;
pub use corruption::Corruption;
pub use evaluation::Transform;
pub use naflex::Naflex;
pub use preprocess::{CropMode, CropStart, Interpolation, Preprocess};
