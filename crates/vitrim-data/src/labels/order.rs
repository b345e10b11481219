//! Orders of class names: as text, and by the numbers in them.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::DataError;

/// How the classes of a data set are a backbone's classes, where this is set and not found out by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOrder {
    /// The data set's own order: the numbers that it gives to its classes, or its names sorted as text, as in
    /// torchvision.
    Own,
    /// The names sorted by the numbers in them: `class_2` before `class_10`.
    Number,
    /// The number in a name is the class: `7` and `class_7` are class 7.
    Index,
}

impl LabelOrder {
    const ALL: [Self; 3] = [Self::Own, Self::Number, Self::Index];
}

impl fmt::Display for LabelOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Number => "number",
            Self::Index => "index",
        })
    }
}

impl FromStr for LabelOrder {
    type Err = DataError;

    /// Reads `own`, `number` or `index`.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSuchLabelOrder`] for anything else.
    fn from_str(text: &str) -> Result<Self, DataError> {
        let named = Self::ALL.into_iter().find(|order| order.to_string() == text);
        named.ok_or_else(|| DataError::NoSuchLabelOrder(text.to_string()))
    }
}

/// Compares names as people do: runs of digits as numbers, all else as text.
pub(super) fn by_number(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (take_digits(&mut left), take_digits(&mut right));
                match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
                    Ordering::Equal => {}
                    unequal => return unequal,
                }
            }
            (Some(x), Some(y)) if x == y => (left, right) = (&left[1..], &right[1..]),
            (x, y) => return x.cmp(&y).then_with(|| a.cmp(b)),
        }
    }
}

/// Removes the digits at the start of `text`; returns them without leading zeros.
fn take_digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    &digits[digits.iter().position(|&byte| byte != b'0').unwrap_or(digits.len())..]
}

/// The only number in `name`; `None` if there is none, or several.
pub(super) fn number_in(name: &str) -> Option<u32> {
    let mut runs = name.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let only = runs.next()?;
    if runs.next().is_some() { None } else { only.parse().ok() }
}

/// The numbers that `names` are; `None` if one is more than a number, or if two are the same number.
pub(crate) fn bare_numbers(names: &[String]) -> Option<Vec<u32>> {
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let numbers: Vec<u32> =
        names.iter().map(|name| number_in(name).filter(|_| is_number(name))).collect::<Option<_>>()?;
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    (distinct.len() == numbers.len()).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_count_as_numbers() {
        let sorted = |names: &[&str]| {
            let mut sorted = names.to_vec();
            sorted.sort_by(|a, b| by_number(a, b));
            sorted == names
        };
        assert!(sorted(&["0", "1", "2", "10", "11", "100"]));
        assert!(sorted(&["class_1", "class_2", "class_10", "class_10b", "dog"]));
        assert!(sorted(&["a 1 b 2", "a 1 b 10", "a 2 b 1"]));
        assert!(sorted(&["a", "a b", "a-1", "a1", "a_1"]), "as text");
        assert!(sorted(&["01", "1", "002", "2"]));
        assert!(sorted(&["9", "99999999999999999999999", "100000000000000000000000"]));
    }

    #[test]
    fn a_name_has_one_number_or_none() {
        for (name, number) in
            [("7", Some(7)), ("class_012", Some(12)), ("dog", None), ("a1b2", None), ("99999999999", None)]
        {
            assert_eq!(number_in(name), number, "{name}");
        }
        let numbers =
            |names: &[&str]| bare_numbers(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(numbers(&["0", "012", "7"]), Some(vec![0, 12, 7]));
        for names in [&["c1"][..], &[""], &["-1"], &["1", "01"], &["1", "99999999999"]] {
            assert_eq!(numbers(names), None, "{names:?}");
        }
    }

    #[test]
    fn orders_are_read_by_name() {
        for order in LabelOrder::ALL {
            assert_eq!(order.to_string().parse::<LabelOrder>().unwrap(), order);
        }
        let error = "text".parse::<LabelOrder>().unwrap_err().to_string();
        assert!(error.contains("`text`") && error.contains("own, number or index"), "{error}");
    }
}
