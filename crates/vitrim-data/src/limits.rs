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
/// Largest size of a column of labels or paths in a row group of a parquet file, bytes, not compressed.
pub(crate) const MAX_TEXT_COLUMN_BYTES: u64 = 256 << 20;
/// Largest size of the different words that are the labels of a split in parquet files, bytes: a dictionary of a few bytes
/// gives any number of rows their words.
pub(crate) const MAX_LABEL_WORD_BYTES: usize = 64 << 20;
/// Most rows of a table of images in parquet form, and largest size of all their paths, bytes: in memory they take 2 GiB.
pub(crate) const MAX_TABLE_ROWS: usize = 1 << 24;
pub(crate) const MAX_TABLE_PATH_BYTES: usize = 1 << 30;
/// Most rows of the parquet files of a split: their labels take up to 1 GiB. A footer of a few bytes may state any number.
pub(crate) const MAX_ROWS: usize = 1 << 26;
