//! Names of splits: the spellings that are known, and the order in which splits are listed.
//! Source: the keywords of the `datasets` library (`data_files.py`), which has `eval` for test.

/// The only split of a data set without splits.
pub(crate) const WHOLE: &str = "all";
/// The only split of a stream; it has every name.
pub(crate) const STREAM: &str = "stream";

/// The known splits, in the order in which they are listed, with their spellings, in lower case.
const KNOWN: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["val", "valid", "validation", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The known split that `text` spells, in any case: `train`, `validation` or `test`.
pub fn known(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    KNOWN.iter().find(|(_, spellings)| spellings.contains(&lower.as_str())).map(|(name, _)| *name)
}

/// The name of the split with the spelling `text`; `text` itself if it is not a known spelling.
pub(super) fn canonical(text: &str) -> String {
    known(text).unwrap_or(text).to_owned()
}

/// Sorts known splits first, in their order, then all others.
pub(super) fn rank(canonical: &str) -> usize {
    KNOWN.iter().position(|(name, _)| *name == canonical).unwrap_or(KNOWN.len())
}

/// The split that the first such word of `name` denotes: `my-train_0001.tar`, `dev.csv`, `val2017`, `TestImages`.
pub(super) fn split_in_name(name: &str) -> Option<&'static str> {
    words(name).into_iter().find_map(known)
}

/// The words of `name`: its letters, parted by all other characters, and before a capital that follows a small letter.
fn words(name: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for letters in name.split(|c: char| !c.is_alphabetic()) {
        let mut start = 0;
        let mut before = None;
        for (at, c) in letters.char_indices() {
            if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
                words.push(&letters[start..at]);
                start = at;
            }
            before = Some(c);
        }
        words.push(&letters[start..]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_has_many_spellings_in_any_case() {
        for (name, spellings) in [
            ("train", &["train", "Train", "TRAINING", "Training"][..]),
            ("validation", &["val", "Valid", "VALIDATION", "dev", "Dev"]),
            ("test", &["test", "Testing", "eval", "Evaluation"]),
        ] {
            for spelling in spellings {
                assert_eq!((known(spelling), canonical(spelling).as_str()), (Some(name), name), "{spelling}");
            }
        }
        assert_eq!((known("trainer"), canonical("Holdout").as_str()), (None, "Holdout"));
    }

    #[test]
    fn a_word_of_a_name_denotes_a_split() {
        for (name, split) in [
            ("my-train_0001.tar", Some("train")),
            ("val2017", Some("validation")),
            ("test_set", Some("test")),
            ("TestImages", Some("test")),
            ("ILSVRC2012_img_val.tar", Some("validation")),
            ("seg_train", Some("train")),
            ("contest", None),
            ("0000.parquet", None),
            ("trainstation", None),
        ] {
            assert_eq!(split_in_name(name), split, "{name}");
        }
    }
}
