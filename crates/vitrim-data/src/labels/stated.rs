//! Labels as written in lists and shards: numbers are class indices, other words are class names.

use std::collections::HashMap;

use super::class::class_of;
use crate::error::DataError;

/// The labels of a data set while it is being indexed. Each name is stored once.
#[derive(Debug, Default)]
pub(crate) struct StatedLabels {
    values: Vec<Stated>,
    names: Vec<String>,
    by_name: HashMap<String, usize>,
}

#[derive(Clone, Copy, Debug)]
enum Stated {
    Absent,
    Index(i64),
    /// An index into the names.
    Name(usize),
}

impl StatedLabels {
    /// Adds the label of the next image; an empty word means no label.
    pub(crate) fn push(&mut self, label: Option<&str>) {
        let stated = match label.map(str::trim) {
            None | Some("") => Stated::Absent,
            Some(word) => word.parse().map_or_else(|_| Stated::Name(self.intern(word)), Stated::Index),
        };
        self.values.push(stated);
    }

    /// Class names, sorted, and a class for each image. If all labels are numbers, they are the classes and there are
    /// no names; otherwise every label is a name. `origin` gives the location of an image's label.
    pub(crate) fn classes(
        mut self,
        origin: impl Fn(usize) -> String,
    ) -> Result<(Vec<String>, Vec<Option<u32>>), DataError> {
        if self.names.is_empty() {
            let class = |(row, stated): (usize, &Stated)| match stated {
                Stated::Index(index) => class_of(Some(*index), 0).map_err(|(label, expected)| {
                    DataError::BadLabel { origin: origin(row), label, expected }
                }),
                Stated::Absent | Stated::Name(_) => Ok(None),
            };
            let labels = self.values.iter().enumerate().map(class).collect::<Result<_, _>>()?;
            return Ok((Vec::new(), labels));
        }
        for row in 0..self.values.len() {
            if let Stated::Index(index) = self.values[row] {
                self.values[row] = Stated::Name(self.intern(&index.to_string()));
            }
        }
        let mut sorted: Vec<usize> = (0..self.names.len()).collect();
        sorted.sort_by(|&a, &b| self.names[a].cmp(&self.names[b]));
        let mut rank = vec![0; sorted.len()];
        for (class, &name) in sorted.iter().enumerate() {
            rank[name] = class as u32;
        }
        let label = |stated: &Stated| match stated {
            Stated::Name(name) => Some(rank[*name]),
            Stated::Absent | Stated::Index(_) => None,
        };
        let labels = self.values.iter().map(label).collect();
        Ok((sorted.iter().map(|&name| self.names[name].clone()).collect(), labels))
    }

    fn intern(&mut self, name: &str) -> usize {
        if let Some(&at) = self.by_name.get(name) {
            return at;
        }
        self.names.push(name.to_string());
        self.by_name.insert(name.to_string(), self.names.len() - 1);
        self.names.len() - 1
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
    fn words_are_names_in_sorted_order_and_make_numbers_names() {
        let (names, labels) = classes(&[Some("dog"), Some("cat"), None, Some("dog"), Some("9")]).unwrap();
        assert_eq!(names, ["9", "cat", "dog"]);
        assert_eq!(labels, [Some(2), Some(1), None, Some(2), Some(0)]);
    }
}
