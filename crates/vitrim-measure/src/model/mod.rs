//! A backbone and a policy, ready to run.

pub mod dtype;
pub mod features;
pub mod info;
mod loaded;
mod policy;

pub use loaded::{IMAGENET_CLASSES, Loaded, Opening, open_checkpoint, preprocess};
pub use policy::{named_method, open_policy};
