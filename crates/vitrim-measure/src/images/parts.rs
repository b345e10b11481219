//! Which images are for training, which for calibration, which for the final figures.
//!
//! Splits of the data set are used as they are. Missing parts are cut from existing splits by a hash of each image's
//! bytes: `train` and `test` alone give train and calibration from `train` at 4 to 1; a single split gives train,
//! calibration and test at 3 to 1 to 1.

use std::path::{Path, PathBuf};

use vitrim_data::{Dataset, Excluded, Shares, Subset, known_split};
use vitrim_hub::{Kind, local};

use crate::error::{MeasureError, Result};
use crate::images::Reading;

/// Shares if there are only `train` and `test`.
const TRAIN_AND_CALIBRATION: Shares = Shares { train: 0.8, calibration: 0.2, test: 0.0 };
/// Shares if there is a single split.
const ALL_THREE: Shares = Shares { train: 0.6, calibration: 0.2, test: 0.2 };

/// Called with (images done, all images) while images are hashed.
pub type OnProgress<'a> = &'a mut dyn FnMut(usize, usize);

/// A data set and its splits.
#[derive(Clone, Debug)]
pub struct DataParts {
    /// The path that was given.
    path: PathBuf,
    /// The local path: the same, unless an `hf://` reference was given.
    local: PathBuf,
    splits: Vec<String>,
    /// Whether the data set is a stream, which has one part; this part has every name.
    streams: bool,
    reading: Reading,
}

/// Where the images of a part come from.
#[derive(Clone, Debug, PartialEq)]
enum PartSource {
    /// A whole split.
    Whole(String),
    /// The subset of a split that the shares assign to the part.
    Cut(String, Shares, Subset),
}

impl DataParts {
    /// Finds the splits of the data set at `path`, which may be an `hf://` reference.
    ///
    /// # Errors
    /// If the data set cannot be fetched, or the path cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let local = local(path, Kind::Data)?.into_owned();
        let (splits, streams) = (Dataset::splits(&local)?, Dataset::streams(&local)?);
        Ok(DataParts { path: path.to_owned(), local, splits, streams, reading: Reading::default() })
    }

    /// Sets how the data set is read.
    #[must_use]
    pub fn read_as(self, reading: Reading) -> Self {
        DataParts { reading, ..self }
    }

    /// The data set's path.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether there are images for `part`.
    pub fn has(&self, part: Subset) -> bool {
        self.place(part).is_some()
    }

    /// The part for final figures: test, or calibration if there is no test part.
    pub fn final_part(&self) -> Subset {
        if self.has(Subset::Test) { Subset::Test } else { Subset::Calibration }
    }

    /// The images of `part`.
    ///
    /// # Errors
    /// If there are none, or the images cannot be read.
    pub fn part(&self, part: Subset, progress: OnProgress<'_>) -> Result<Dataset> {
        let place = self.place(part).ok_or_else(|| {
            let splits = self.splits.join(", ");
            self.lacks(format!("has no images for {}; it has: {splits}; name one with --split", name(part)))
        })?;
        let (split, cut) = match &place {
            PartSource::Whole(split) => (split, None),
            PartSource::Cut(split, shares, part) => (split, Some((shares, part))),
        };
        let whole = self.open(split)?;
        let dataset = match cut {
            None => whole,
            Some((shares, part)) => whole.by_hash(*part, shares, progress)?,
        };
        if dataset.is_empty() {
            return Err(self.lacks(format!("too few images to cut out a part for {}", name(part))));
        }
        Ok(dataset)
    }

    /// The images of the part `wanted`: `train`, `calibration` (or `validation`), `test`, or a split of the data set.
    ///
    /// # Errors
    /// As [`DataParts::part`].
    pub fn named(&self, wanted: &str, progress: OnProgress<'_>) -> Result<Dataset> {
        match part_of_name(wanted) {
            Some(part) if self.has(part) && !self.has_besides(wanted) => self.part(part, progress),
            _ => self.open(wanted),
        }
    }

    /// The images that training must not see: calibration and test images, and `also`.
    ///
    /// # Errors
    /// A read error.
    pub fn held_out(&self, also: Option<&Dataset>, progress: OnProgress<'_>) -> Result<Excluded> {
        let mut excluded = match also {
            Some(also) => also.to_exclude(progress)?,
            None => Excluded::default(),
        };
        for part in [Subset::Calibration, Subset::Test] {
            if let Some(PartSource::Whole(split)) = self.place(part) {
                excluded.extend(self.open(&split)?.to_exclude(progress)?);
            }
        }
        Ok(excluded)
    }

    /// Whether `wanted` is the name of a split that stands beside the one that it would mean otherwise: `val` beside
    /// `validation`.
    fn has_besides(&self, wanted: &str) -> bool {
        known_split(wanted) != Some(wanted) && self.splits.iter().any(|split| split == wanted)
    }

    /// A split, read as requested.
    fn open(&self, split: &str) -> Result<Dataset> {
        self.reading.of(&Dataset::open(&self.local, Some(split))?)
    }

    fn place(&self, part: Subset) -> Option<PartSource> {
        let has = |split: &str| self.splits.iter().any(|s| s == split);
        let whole = |split: &str| has(split).then(|| PartSource::Whole(split.to_owned()));
        if self.streams {
            return Some(PartSource::Whole(name(part).to_owned()));
        }
        if let [only] = self.splits.as_slice()
            && !matches!(only.as_str(), "validation" | "test")
        {
            return Some(PartSource::Cut(only.clone(), ALL_THREE, part));
        }
        match part {
            Subset::Test => whole("test"),
            Subset::Calibration if has("validation") => whole("validation"),
            Subset::Train if has("validation") => whole("train"),
            Subset::Train | Subset::Calibration => {
                has("train").then(|| PartSource::Cut("train".into(), TRAIN_AND_CALIBRATION, part))
            }
        }
    }

    fn lacks(&self, reason: String) -> MeasureError {
        MeasureError::Part { data: self.path(), reason }
    }
}

/// The user's name of `part`.
pub fn name(part: Subset) -> &'static str {
    match part {
        Subset::Train => "train",
        Subset::Calibration => "calibration",
        Subset::Test => "test",
    }
}

fn part_of_name(name: &str) -> Option<Subset> {
    match known_split(name) {
        Some("train") => Some(Subset::Train),
        Some("validation") => Some(Subset::Calibration),
        Some("test") => Some(Subset::Test),
        _ => (name == "calibration").then_some(Subset::Calibration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(splits: &[&str]) -> DataParts {
        let splits = splits.iter().map(|s| (*s).to_owned()).collect();
        let (path, local) = (PathBuf::new(), PathBuf::new());
        DataParts { path, local, splits, streams: false, reading: Reading::default() }
    }

    #[test]
    fn given_splits_are_taken_as_they_are() {
        let all = parts(&["train", "validation", "test"]);
        assert_eq!(all.place(Subset::Train), Some(PartSource::Whole("train".into())));
        assert_eq!(all.place(Subset::Calibration), Some(PartSource::Whole("validation".into())));
        assert_eq!(all.place(Subset::Test), Some(PartSource::Whole("test".into())));
        assert!(!parts(&["train", "validation"]).has(Subset::Test));
        assert!(!parts(&["test"]).has(Subset::Train), "nobody trains on a test split unless he says so");
        assert!(!parts(&["validation", "test"]).has(Subset::Train));
    }

    #[test]
    fn a_part_has_many_spellings_unless_a_split_has_the_name() {
        for (name, part) in [
            ("Training", Some(Subset::Train)),
            ("dev", Some(Subset::Calibration)),
            ("calibration", Some(Subset::Calibration)),
            ("Evaluation", Some(Subset::Test)),
            ("holdout", None),
        ] {
            assert_eq!(part_of_name(name), part, "{name}");
        }
        let twice = parts(&["train", "validation", "val"]);
        assert!(twice.has_besides("val") && !twice.has_besides("valid") && !twice.has_besides("validation"));
    }

    #[test]
    fn a_stream_is_whichever_part_is_asked_for() {
        let stream = DataParts { streams: true, ..parts(&["stream"]) };
        assert_eq!(stream.final_part(), Subset::Test);
        for part in [Subset::Train, Subset::Calibration, Subset::Test] {
            assert_eq!(stream.place(part), Some(PartSource::Whole(name(part).to_owned())));
        }
    }

    #[test]
    fn what_is_missing_is_cut() {
        let two = parts(&["train", "test"]);
        let cut = |part| Some(PartSource::Cut("train".into(), TRAIN_AND_CALIBRATION, part));
        assert_eq!(two.place(Subset::Train), cut(Subset::Train));
        assert_eq!(two.place(Subset::Calibration), cut(Subset::Calibration));
        assert_eq!(two.place(Subset::Test), Some(PartSource::Whole("test".into())));
        for part in [Subset::Train, Subset::Calibration, Subset::Test] {
            assert_eq!(parts(&["all"]).place(part), Some(PartSource::Cut("all".into(), ALL_THREE, part)));
        }
    }
}
