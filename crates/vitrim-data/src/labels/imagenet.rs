//! ImageNet-1k's classes as its folders and shards name them: WordNet synsets.

/// The 1,000 synsets in the order of the classes, which is that of sorted names: `n01440764` is class 0.
/// Source: the ILSVRC-2012 folder names, as timm lists them.
const SYNSETS: &str = include_str!("../../assets/imagenet_synsets.txt");

/// ImageNet-1k's synsets; a class's index is its position.
pub fn imagenet_synsets() -> Vec<&'static str> {
    SYNSETS.lines().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_in_the_order_of_names() {
        let synsets = imagenet_synsets();
        assert_eq!((synsets.len(), synsets[0], synsets[999]), (1000, "n01440764", "n15075141"));
        assert!(synsets.is_sorted() && synsets.iter().all(|name| name.len() == 9 && name.starts_with('n')));
    }
}
