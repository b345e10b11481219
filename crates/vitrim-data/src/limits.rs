//! Limits on what is read: each is checked before memory for the content is allocated.

/// The longest side of an image that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// The most bytes of one decoded image, including the coefficients that a progressive JPEG keeps while it is decoded.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;
/// The most bytes of one encoded image.
pub const MAX_ENCODED_BYTES: u64 = 256 << 20;
/// The most bytes of a tar member that states a label (`.cls`, `.json`).
pub(crate) const MAX_LABEL_BYTES: u64 = 1 << 20;
/// The most file names that one brace pattern may stand for.
pub(crate) const MAX_PATTERN_NAMES: usize = 100_000;
