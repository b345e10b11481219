//! The receiver of a walk's images.

use crate::sources::Payload;

/// Called with an image's position in the data set and the image; returns whether the walk continues.
pub(crate) type Sink<'s> = dyn FnMut(usize, Payload) -> bool + 's;
