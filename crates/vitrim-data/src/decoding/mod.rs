//! Encoded bytes to 8-bit RGB, and what is counted on the way: images left out, images a second.

mod bad_images;
mod decode;
mod guard;
mod rate;
mod truncation;

pub use bad_images::{BadImages, OnBadImage};
pub use decode::Decoding;
pub(crate) use decode::{read_encoded, too_long};
pub use guard::{guarded, is_guarded};
pub use rate::DecodeRate;
pub(crate) use rate::DecodeTotals;
