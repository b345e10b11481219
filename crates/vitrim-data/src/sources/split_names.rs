//! Names of splits: the spellings that are known, and the order in which splits are listed.

/// The only split of a data set without splits.
pub(crate) const WHOLE: &str = "all";
/// The only split of a stream; it has every name.
pub(crate) const STREAM: &str = "stream";

/// A split that has several spellings.
struct KnownSplit {
    name: &'static str,
    /// Spellings of a folder's name or of an argument.
    spellings: &'static [&'static str],
    /// Further spellings that count as a word of a file's name only, as on the Hugging Face Hub.
    in_file_names: &'static [&'static str],
}

/// The known splits, in the order in which they are listed.
const KNOWN: [KnownSplit; 3] = [
    KnownSplit { name: "train", spellings: &["train"], in_file_names: &["training"] },
    KnownSplit {
        name: "validation",
        spellings: &["val", "valid", "validation"],
        in_file_names: &["dev", "eval"],
    },
    KnownSplit { name: "test", spellings: &["test"], in_file_names: &["testing"] },
];

/// The known split with the spelling `text`.
pub(super) fn known(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    KNOWN.iter().find(|split| split.spellings.contains(&lower.as_str())).map(|split| split.name)
}

/// The name of the split with the spelling `text`; `text` itself if it is not a known spelling.
pub(super) fn canonical(text: &str) -> String {
    known(text).unwrap_or(text).to_owned()
}

/// Whether `text` spells a known split.
pub(super) fn is_known(text: &str) -> bool {
    known(text).is_some()
}

/// Sorts known splits first, in their order, then all others.
pub(super) fn rank(canonical: &str) -> usize {
    KNOWN.iter().position(|split| split.name == canonical).unwrap_or(KNOWN.len())
}

/// The split that a word of the file name `name` denotes: `my-train_0001.tar`, `dev.csv`.
pub(super) fn split_in_name(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    name.split(|c: char| !c.is_ascii_alphanumeric()).find_map(|word| {
        let is_word =
            |split: &&KnownSplit| split.spellings.contains(&word) || split.in_file_names.contains(&word);
        KNOWN.iter().find(is_word).map(|split| split.name.to_owned())
    })
}
