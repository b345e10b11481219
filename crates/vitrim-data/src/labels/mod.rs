//! Labels: from the words and numbers of a data set to class indices.

mod backbone;
mod class;
mod correspondence;
mod fields;
mod imagenet;
mod map;
mod number;
mod order;
mod spelling;
mod stated;
mod stream;

pub use backbone::BackboneClasses;
pub(crate) use class::class_of;
pub(crate) use correspondence::{OwnClasses, correspond};
pub(crate) use fields::{LABEL_FIELDS, label_in, word};
pub use imagenet::{imagenet_names, imagenet_synsets};
pub use map::LabelMap;
pub(crate) use number::{Written, written};
pub use order::LabelOrder;
pub(crate) use order::bare_numbers;
pub(crate) use spelling::spelling;
pub(crate) use stated::{StatedLabels, numbered};
pub(crate) use stream::StreamClasses;
