//! Errors on the way from a path to pixels. Every message is one line that says what is wrong, where, and what to do.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The path does not exist.
    #[error("{}: no such file or folder; check the path", path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The operating system refused to read a file or a folder.
    #[error("{}: cannot be read ({cause}); check that it exists and its permissions", path.display())]
    Unreadable {
        /// The path that was being read.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
    /// A file that is read as text is in another encoding than UTF-8, or too large.
    #[error("{origin}: {reason}")]
    NotText {
        /// The file, or the archive and its member.
        origin: String,
        /// What it is instead, and what to do.
        reason: String,
    },
    /// There are no images.
    #[error(
        "{}: holds no images; expected class folders or files ending in jpg, jpeg, png, webp, bmp, gif, tif, tiff, \
         ppm or pgm, parquet files, or tar shards",
        path.display()
    )]
    Empty {
        /// The folder or parquet file without images.
        path: PathBuf,
    },
    /// There are no images, but an archive that vitrim does not read.
    #[error("{}: holds no images, but {archive}; unpack it, or pack its files as .tar", path.display())]
    Packed {
        /// The folder.
        path: PathBuf,
        /// The archive's name.
        archive: String,
    },
    /// The data set has no split of the wanted name.
    #[error("{}: has no split `{wanted}`; it has: {}", path.display(), available.join(", "))]
    NoSuchSplit {
        /// The data set.
        path: PathBuf,
        /// The split that was asked for.
        wanted: String,
        /// The splits that exist.
        available: Vec<String>,
    },
    /// The data set has several splits and none was named.
    #[error("{}: has several splits; name one of: {}", path.display(), available.join(", "))]
    SplitNotNamed {
        /// The data set.
        path: PathBuf,
        /// The splits that exist.
        available: Vec<String>,
    },
    /// The file is not of a kind that holds a data set.
    #[error(
        "{}: not a data set that vitrim reads; give a folder of images, .parquet, .tar, .tar.gz, .csv, .tsv, .jsonl, \
         or a .txt list of image files",
        path.display()
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// A brace pattern that matches too many files, or files of different kinds.
    #[error("{pattern}: {what}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// A list of images that is not valid.
    #[error("{}: {what}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        what: String,
    },
    /// A table of images that has no paths.
    #[error("{}: {what}", path.display())]
    NoPaths {
        /// The file.
        path: PathBuf,
        /// What was expected, and what was found.
        what: String,
    },
    /// A label map that is not valid.
    #[error("label map {}: {what}", path.display())]
    LabelMap {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        what: String,
    },
    /// A class of the data set that is missing in the label map.
    #[error(
        "{origin}: class `{class}` is not in the label map; add it, or map it to -1 to leave it without a label"
    )]
    NotInLabelMap {
        /// An image of the class.
        origin: String,
        /// The class's name, or its index if it has no name.
        class: String,
    },
    /// It is not known which of the backbone's classes the data set's classes are, or an image has two labels.
    #[error("{origin}: {what}")]
    Correspondence {
        /// The data set, or an image.
        origin: String,
        /// What is wrong, and what decides it.
        what: String,
    },
    /// A number that is no class.
    #[error(
        "{origin}: label {label} is not a whole number; give the number of a class, or leave it empty for no label"
    )]
    FractionalLabel {
        /// The file and row, or the image.
        origin: String,
        /// The label as stored.
        label: String,
    },
    /// An unknown order of classes.
    #[error("no such order of classes, `{0}`; use one of own, number or index")]
    NoSuchLabelOrder(String),
    /// A tar archive that is damaged or cut off.
    #[error("{origin}: not a tar archive, or a damaged one ({reason}); make or download it again")]
    DamagedTar {
        /// The file, or the pipe.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A sample of a stream whose members are not neighbours.
    #[error(
        "{origin}: the members of sample {key} lie apart, which a stream cannot join; sort them, as tar --sort=name does, \
         or save the archive to a file, decompressed (.tar)"
    )]
    Apart {
        /// The stream: a pipe or a compressed shard.
        origin: String,
        /// The sample: its members' path up to the first dot.
        key: String,
    },
    /// A member of a tar archive that holds a label and cannot be read.
    #[error("{origin}: {what}")]
    TarMember {
        /// The archive and the member.
        origin: String,
        /// What it is instead, and what to do.
        what: String,
    },
    /// An operation that needs random access was asked of a stream.
    #[error(
        "{origin}: is read front to back, as a pipe is, and cannot be {wanted}; save it to files, decompressed (.tar)"
    )]
    OnePass {
        /// The stream: a pipe or a compressed shard.
        origin: String,
        /// The operation, as a participle.
        wanted: &'static str,
    },
    /// The file is not a parquet file, or its end is missing.
    #[error(
        "{}: not a parquet file, or a truncated one ({reason}); download it again or give a folder of images",
        path.display()
    )]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// The parquet reader's message.
        reason: String,
    },
    /// A parquet file whose footer is fine but whose pages are not.
    #[error(
        "{}: row group {row_group} is damaged ({reason}); download the file again",
        path.display()
    )]
    DamagedParquet {
        /// The file.
        path: PathBuf,
        /// The row group, counted from 0.
        row_group: usize,
        /// The parquet reader's message.
        reason: String,
    },
    /// A file was written while its images were read.
    #[error("{}: has changed since it was opened; wait until it is complete, then run the same command again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A parquet file states or holds more than is read.
    #[error("{}: row group {row_group} is too large: {what}; check the file, or split it", path.display())]
    LargeParquet {
        /// The file.
        path: PathBuf,
        /// The row group, counted from 0.
        row_group: usize,
        /// What is too large, and the limit.
        what: String,
    },
    /// No column of a parquet file holds encoded images.
    #[error(
        "{}: has no image column; expected an Image feature, or a column such as `image` or `img` (binary, or a struct with `bytes`), found: {}",
        path.display(),
        columns.join(", ")
    )]
    NoImageColumn {
        /// The file.
        path: PathBuf,
        /// The columns of the file, with their types.
        columns: Vec<String>,
    },
    /// The label column contains neither integers nor text, or not in all files.
    #[error("{}: column `{column}` is {found}; labels must be integers or text", path.display())]
    LabelColumn {
        /// The file.
        path: PathBuf,
        /// The label column's name.
        column: String,
        /// Its physical type.
        found: String,
    },
    /// Files of one split name their classes differently.
    #[error(
        "{}: its class names differ from those of {}; keep only files of one data set together",
        path.display(),
        other.display()
    )]
    ClassNamesDiffer {
        /// The file that differs.
        path: PathBuf,
        /// The file that it differs from.
        other: PathBuf,
    },
    /// A label that is not a class.
    #[error("{origin}: label {label} is out of range; expected {expected}, or -1 for no label")]
    BadLabel {
        /// The file and row, or the position in memory.
        origin: String,
        /// The label as stored.
        label: i64,
        /// The range that labels must lie in.
        expected: String,
    },
    /// An image that cannot be decoded.
    #[error("{origin}: cannot be decoded ({reason}); replace or remove it, or skip bad images")]
    BadImage {
        /// The file, or the parquet file and row.
        origin: String,
        /// The decoder's message.
        reason: String,
    },
    /// A preprocessing configuration that is invalid or not supported.
    #[error("preprocessing: {what}")]
    Preprocess {
        /// What is wrong and what to do.
        what: String,
    },
    /// An unknown corruption, or one that failed.
    #[error("corruption: {0}")]
    Corrupt(String),
    /// An augmentation that cannot be applied.
    #[error("augmentation: {what}")]
    Augment {
        /// What is wrong and what to do.
        what: String,
    },
    /// Invalid shares of a partition.
    #[error("shares {train}/{calibration}/{test}: each must be finite and at least 0, and their sum above 0")]
    Shares {
        /// Training share.
        train: f64,
        /// Calibration share.
        calibration: f64,
        /// Test share.
        test: f64,
    },
    /// A batch size of 0.
    #[error("loader: the batch size is 0; give at least 1")]
    ZeroBatch,
    /// An index past the end of the data set.
    #[error("image {index} was asked for, but the data set has {len}; count from 0")]
    IndexOutOfRange {
        /// The index.
        index: usize,
        /// Number of images in the data set.
        len: usize,
    },
    /// The loader's threads could not be started, or ended before their work did.
    #[error("loader: its threads {what}; try fewer workers")]
    Threads {
        /// What happened to the threads.
        what: String,
    },
}

impl DataError {
    /// Turns an I/O error on `path` into "not found", "not text" or "unreadable".
    pub(crate) fn io(path: &Path, cause: io::Error) -> Self {
        let path = path.to_path_buf();
        match cause.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            // Only `vitrim_text` gives this kind.
            io::ErrorKind::InvalidData => {
                Self::NotText { origin: path.display().to_string(), reason: cause.to_string() }
            }
            _ => Self::Unreadable { path, cause },
        }
    }

    pub(crate) fn bad_image(origin: impl Into<String>, reason: impl Display) -> Self {
        Self::BadImage { origin: origin.into(), reason: one_line(reason) }
    }
}

/// `error` on a single line: some decoders' messages have line breaks.
pub(crate) fn one_line(error: impl Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
