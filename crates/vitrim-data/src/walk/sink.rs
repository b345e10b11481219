//! What a walk hands its images to.

use crate::sources::Payload;

/// Takes the position of an image in the data set and the image; returns whether the walk goes on.
pub(crate) type Sink<'s> = dyn FnMut(usize, Payload) -> bool + 's;
