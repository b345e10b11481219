//! What can go wrong on the way from a path to pixels. Every message is one line that says what,
//! where, and what to do.

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
        /// What was asked for.
        path: PathBuf,
    },
    /// The operating system refused to read a file or a folder.
    #[error("{}: cannot be read ({cause}); check that it exists and its permissions", path.display())]
    Unreadable {
        /// What was being read.
        path: PathBuf,
        /// The operating system's word on it.
        cause: io::Error,
    },
    /// There is nothing to load.
    #[error(
        "{}: holds no images; expected class folders or files ending in jpg, jpeg, png, webp, bmp, gif, tif or tiff, \
         parquet files, or tar shards",
        path.display()
    )]
    Empty {
        /// The folder or parquet file without images.
        path: PathBuf,
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
    /// A file that is none of the kinds that hold data sets.
    #[error(
        "{}: not a data set that vitrim reads; give a folder of images, .parquet, .tar, .tar.gz, .csv, .tsv, .jsonl, \
         or a .txt list of image files",
        path.display()
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// A brace pattern that stands for too many files, or for files of different kinds.
    #[error("{pattern}: {what}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// A list of images that cannot be read as one.
    #[error("{}: {what}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        what: String,
    },
    /// A label map that cannot be read as one.
    #[error("label map {}: {what}", path.display())]
    LabelMap {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        what: String,
    },
    /// A class of the data set's that a label map does not have.
    #[error(
        "{origin}: class `{class}` is not in the label map; add it, or map it to -1 to leave it without a label"
    )]
    NotInLabelMap {
        /// An image of that class.
        origin: String,
        /// Its name, or its index where it has none.
        class: String,
    },
    /// A tar archive that is damaged or cut off.
    #[error("{origin}: not a tar archive, or a damaged one ({reason}); make or download it again")]
    DamagedTar {
        /// The file, or the pipe.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A data set that is read front to back was asked for what needs any place of it at any time.
    #[error(
        "{origin}: is read front to back, as a pipe is, and cannot be {wanted}; save it to files, decompressed (.tar)"
    )]
    OnePass {
        /// The pipe or the compressed shard.
        origin: String,
        /// What was asked for, as a participle.
        wanted: &'static str,
    },
    /// The file is no parquet file, or its end is missing.
    #[error(
        "{}: not a parquet file, or a truncated one ({reason}); download it again or give a folder of images",
        path.display()
    )]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What the parquet reader said.
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
        /// What the parquet reader said.
        reason: String,
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
        /// The columns that it has, with their types.
        columns: Vec<String>,
    },
    /// The label column is not made of whole numbers.
    #[error("{}: column `{column}` is {found}; labels must be integers", path.display())]
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
    /// A label that is no class.
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
        /// What the decoder said.
        reason: String,
    },
    /// A preprocessing configuration that is invalid or not supported.
    #[error("preprocessing: {what}")]
    Preprocess {
        /// What is wrong and what to do.
        what: String,
    },
    /// A corruption that does not exist, or fails.
    #[error("corruption: {0}")]
    Corrupt(String),
    /// An augmentation that cannot be applied.
    #[error("augmentation: {what}")]
    Augment {
        /// What is wrong and what to do.
        what: String,
    },
    /// Shares of a partition that make no sense.
    #[error("shares {train}/{calibration}/{test}: each must be finite and at least 0, and their sum above 0")]
    Shares {
        /// Training share.
        train: f64,
        /// Calibration share.
        calibration: f64,
        /// Test share.
        test: f64,
    },
    /// A batch of no images.
    #[error("loader: the batch size is 0; give at least 1")]
    ZeroBatch,
    /// An index past the end of the data set.
    #[error("image {index} was asked for, but the data set has {len}; count from 0")]
    IndexOutOfRange {
        /// The index.
        index: usize,
        /// Images in the data set.
        len: usize,
    },
    /// The loader's threads could not be started, or ended before their work did.
    #[error("loader: its threads {what}; try fewer workers")]
    Threads {
        /// What happened to them.
        what: String,
    },
}

impl DataError {
    /// Turns an I/O error on `path` into "not found" or "unreadable".
    pub(crate) fn io(path: &Path, cause: io::Error) -> Self {
        let path = path.to_path_buf();
        match cause.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Unreadable { path, cause },
        }
    }

    pub(crate) fn bad_image(origin: impl Into<String>, reason: impl Display) -> Self {
        Self::BadImage { origin: origin.into(), reason: one_line(reason) }
    }
}

/// `error` on a single line: some decoders break theirs.
pub(crate) fn one_line(error: impl Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
