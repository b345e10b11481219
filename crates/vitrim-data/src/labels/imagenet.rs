//! ImageNet-1k's classes: WordNet synsets, as its folders and shards name them, and their words.

use std::sync::LazyLock;

/// The 1,000 synsets in the order of the classes, which is that of sorted names: `n01440764` is class 0.
/// Source: the ILSVRC-2012 folder names, as timm lists them.
const SYNSETS: &str = include_str!("../../assets/imagenet_synsets.txt");

/// ImageNet-1k's synsets; a class's index is its position.
pub fn imagenet_synsets() -> Vec<&'static str> {
    SYNSETS.lines().collect()
}

/// The words of the 1,000 synsets, one line a class, in the order of the classes.
/// Source: WordNet's lemmas of each synset (Princeton University; WordNet's licence), as timm lists them in
/// `imagenet_synset_to_lemma.txt` (Apache-2.0).
const NAMES: &str = include_str!("../../assets/imagenet_names.txt");

/// ImageNet-1k's class names, such as "tench, Tinca tinca"; a class's index is its position. Two classes have the same
/// name, "missile".
pub fn imagenet_names() -> &'static [&'static str] {
    // Asked for each class of each answer.
    static LINES: LazyLock<Vec<&'static str>> = LazyLock::new(|| NAMES.lines().collect());
    &LINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_in_the_order_of_names() {
        let synsets = imagenet_synsets();
        assert_eq!((synsets.len(), synsets[0], synsets[999]), (1000, "n01440764", "n15075141"));
        let names = imagenet_names();
        assert_eq!((names.len(), names[0], names[8]), (1000, "tench, Tinca tinca", "hen"));
        assert_eq!(names[999], "toilet tissue, toilet paper, bathroom tissue");
        assert!(names.iter().all(|name| !name.is_empty() && *name == name.trim()));
        assert!(synsets.is_sorted() && synsets.iter().all(|name| name.len() == 9 && name.starts_with('n')));
    }
}
