//! Decoding to 8-bit RGB; counts of images left out and of images per second.

mod bad_images;
mod decode;
mod guard;
mod rate;
mod truncation;

pub use bad_images::{BadImages, OnBadImage};
pub use decode::{Decoding, FORMATS};
pub(crate) use decode::{read_encoded, too_long};
pub(crate) use guard::caught;
pub use guard::{guarded, is_guarded};
pub use rate::DecodeRate;
pub(crate) use rate::DecodeTotals;
