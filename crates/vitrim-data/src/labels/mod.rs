//! Labels: from the words and numbers of a data set to class indices.

mod class;
mod fields;
mod imagenet;
mod map;
mod stated;

pub(crate) use class::class_of;
pub(crate) use fields::{LABEL_FIELDS, label_in, word};
pub use imagenet::imagenet_synsets;
pub use map::LabelMap;
pub(crate) use stated::StatedLabels;
