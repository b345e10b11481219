//! Labels as written in lists and shards: numbers are class indices, other words are class names.

use std::collections::HashMap;

use super::class::class_of;
use super::number::{Written, written};
use crate::error::DataError;

/// The labels of a data set while it is being indexed. Each word is stored once.
#[derive(Debug, Default)]
pub(crate) struct StatedLabels {
    /// For each image the index of its word; `None` without a label.
    values: Vec<Option<u32>>,
    words: Vec<String>,
    /// Size of the words, bytes.
    word_bytes: usize,
    by_word: HashMap<String, u32>,
}

impl StatedLabels {
    /// Adds the label of the next image; an empty word means no label.
    pub(crate) fn push(&mut self, label: Option<&str>) {
        let word = label.map(str::trim).filter(|word| !word.is_empty()).map(|word| self.intern(word));
        self.values.push(word);
    }

    /// Size of the different words, bytes.
    pub(crate) fn word_bytes(&self) -> usize {
        self.word_bytes
    }

    /// The label of image `row`, as written.
    pub(crate) fn word(&self, row: usize) -> Option<&str> {
        Some(&self.words[(*self.values.get(row)?)? as usize])
    }

    /// Class names, sorted, and a class for each image. If all labels are numbers, they are the classes and there are
    /// no names; otherwise every label is a name. `origin` gives the location of an image's label.
    ///
    /// # Errors
    ///
    /// [`DataError::BadLabel`] or [`DataError::FractionalLabel`] if all labels are numbers, and one is no class.
    pub(crate) fn classes(
        self,
        origin: impl Fn(usize) -> String,
    ) -> Result<(Vec<String>, Vec<Option<u32>>), DataError> {
        let meanings: Vec<Written> = self.words.iter().map(|word| written(word)).collect();
        if !meanings.contains(&Written::Word) {
            let class = |(row, word): (usize, &Option<u32>)| {
                let Some(word) = word.map(|word| word as usize) else { return Ok(None) };
                numbered(&self.words[word], meanings[word], || origin(row))
            };
            let labels = self.values.iter().enumerate().map(class).collect::<Result<_, _>>()?;
            return Ok((Vec::new(), labels));
        }
        let mut sorted: Vec<usize> = (0..self.words.len()).collect();
        sorted.sort_by(|&a, &b| self.words[a].cmp(&self.words[b]));
        let mut rank = vec![0; sorted.len()];
        for (class, &word) in sorted.iter().enumerate() {
            rank[word] = class as u32;
        }
        let labels = self.values.iter().map(|word| word.map(|word| rank[word as usize])).collect();
        Ok((sorted.into_iter().map(|word| self.words[word].clone()).collect(), labels))
    }

    fn intern(&mut self, word: &str) -> u32 {
        if let Some(&at) = self.by_word.get(word) {
            return at;
        }
        let at = self.words.len() as u32;
        self.words.push(word.to_string());
        self.word_bytes += word.len();
        self.by_word.insert(word.to_string(), at);
        at
    }
}

/// The class that is written as the number `label`, which means `meaning`.
pub(crate) fn numbered(
    label: &str,
    meaning: Written,
    origin: impl Fn() -> String,
) -> Result<Option<u32>, DataError> {
    match meaning {
        Written::Whole(index) => class_of(Some(index), 0).map_err(|(label, expected)| DataError::BadLabel {
            origin: origin(),
            label,
            expected,
        }),
        Written::Fraction => Err(DataError::FractionalLabel { origin: origin(), label: label.to_string() }),
        Written::Gap | Written::Word => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(stated: &[Option<&str>]) -> Result<(Vec<String>, Vec<Option<u32>>), DataError> {
        let mut labels = StatedLabels::default();
        stated.iter().for_each(|label| labels.push(*label));
        labels.classes(|row| format!("row {row}"))
    }

    #[test]
    fn numbers_are_indices() {
        let got = classes(&[Some("7"), Some(" 0\n"), Some("-1"), Some(""), None]).unwrap();
        assert_eq!(got, (vec![], vec![Some(7), Some(0), None, None, None]));
        let error = classes(&[Some("1"), Some("-3")]).unwrap_err().to_string();
        assert!(error.contains("row 1: label -3 is out of range"), "{error}");
    }

    #[test]
    fn floats_are_indices_if_they_are_whole() {
        let got = classes(&[Some("10.0"), Some("2.00e+0"), Some("nan"), Some("2"), Some("-1.0")]).unwrap();
        assert_eq!(got, (vec![], vec![Some(10), Some(2), None, Some(2), None]));
        let error = classes(&[Some("1.0"), Some("2.5")]).unwrap_err().to_string();
        assert!(error.contains("row 1: label 2.5 is not a whole number"), "{error}");
    }

    #[test]
    fn words_are_names_in_sorted_order_and_make_numbers_names() {
        let (names, labels) = classes(&[Some("dog"), Some("cat"), None, Some("dog"), Some("09")]).unwrap();
        assert_eq!(names, ["09", "cat", "dog"]);
        assert_eq!(labels, [Some(2), Some(1), None, Some(2), Some(0)]);
    }
}
