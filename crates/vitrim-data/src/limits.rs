//! Limits on what is read: each is checked before memory for the content is allocated.

/// Largest side of an image that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest size of a decoded image, bytes, including the coefficients that a progressive JPEG keeps during decoding.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;
/// Most pixels of a backbone's input, and of what it is cut from if the image is a square: 4096 x 4096.
pub(crate) const MAX_INPUT_PIXELS: u64 = 1 << 24;
/// Most pixels of an image after the resize; the ends of a longer one are cut off before: 768 MiB.
pub(crate) const MAX_RESIZED_PIXELS: u64 = 1 << 28;
/// Largest size of an encoded image, bytes.
pub const MAX_ENCODED_BYTES: u64 = 256 << 20;
/// Largest size of a tar member with a label (`.cls`, `.json`), bytes.
pub(crate) const MAX_LABEL_BYTES: u64 = 1 << 20;
/// Largest length of a path that a parquet file holds in place of an image, bytes.
pub(crate) const MAX_PATH_BYTES: usize = 4096;
/// Largest number of file names for one brace pattern.
pub(crate) const MAX_PATTERN_NAMES: usize = 100_000;
/// Most digits of a number in a brace pattern: a file name has at most so many bytes.
pub(crate) const MAX_PATTERN_DIGITS: usize = 255;
/// Most rows of the parquet files of a split: their labels take up to 1 GiB. A footer of a few bytes may state any number.
pub(crate) const MAX_ROWS: usize = 1 << 26;
