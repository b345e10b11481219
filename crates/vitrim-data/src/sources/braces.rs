//! Brace patterns of shard names, as in WebDataset and the shell: `shard-{0000..0009}.tar`, `{train,val}.tar`.

use crate::limits::{MAX_PATTERN_DIGITS, MAX_PATTERN_NAMES};

/// Whether `text` has a brace to expand.
pub(crate) fn is_pattern(text: &str) -> bool {
    parts(text).is_some()
}

/// The names that match `pattern`, in order; the pattern itself if it has no braces. `None` if there are more than
/// [`MAX_PATTERN_NAMES`].
pub(crate) fn expand(pattern: &str) -> Option<Vec<String>> {
    // From the left, in a loop: a pattern may have more braces than the stack has room for.
    let (mut names, mut rest) = (vec![String::new()], pattern);
    while let Some((before, choices, after)) = parts(rest) {
        let middles = choices.names()?;
        if names.len().saturating_mul(middles.len()) > MAX_PATTERN_NAMES {
            return None;
        }
        let longer =
            names.iter().flat_map(|name| middles.iter().map(move |middle| format!("{name}{before}{middle}")));
        names = longer.collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Some(names)
}

/// The text between two braces.
enum Choices<'a> {
    /// First and last number, and the minimum number of digits.
    Range(usize, usize, usize),
    List(Vec<&'a str>),
}

impl Choices<'_> {
    fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::List(names) => Some(names.iter().map(ToString::to_string).collect()),
            Self::Range(first, last, digits) => {
                let number = |n: usize| format!("{n:0digits$}");
                if first.abs_diff(*last) >= MAX_PATTERN_NAMES {
                    return None;
                }
                Some(if first <= last {
                    (*first..=*last).map(number).collect()
                } else {
                    (*last..=*first).rev().map(number).collect()
                })
            }
        }
    }
}

/// The text before the first brace, the choices in it, and the text after it.
fn parts(text: &str) -> Option<(&str, Choices<'_>, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    if inside.contains(',') {
        return Some((before, Choices::List(inside.split(',').collect()), after));
    }
    let (first, last) = inside.split_once("..")?;
    let digits =
        if first.starts_with('0') || last.starts_with('0') { first.len().max(last.len()) } else { 1 };
    if digits > MAX_PATTERN_DIGITS {
        return None;
    }
    Some((before, Choices::Range(first.parse().ok()?, last.parse().ok()?, digits), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_their_zeros() {
        assert_eq!(
            expand("s-{0008..0011}.tar").unwrap(),
            ["s-0008.tar", "s-0009.tar", "s-0010.tar", "s-0011.tar"]
        );
        assert_eq!(expand("{9..11}").unwrap(), ["9", "10", "11"]);
        assert_eq!(expand("{2..0}x").unwrap(), ["2x", "1x", "0x"]);
    }

    #[test]
    fn lists_and_ranges_combine() {
        assert_eq!(
            expand("{train,val}-{0..1}.tar").unwrap(),
            ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]
        );
    }

    #[test]
    fn other_braces_are_names() {
        for name in ["plain.tar", "a{b}.tar", "a{1..x}", "{", "}{", "{1..", "{..}"] {
            assert!(!is_pattern(name) && expand(name).unwrap() == [name], "{name}");
        }
    }

    #[test]
    fn many_braces_and_wide_numbers_end_neither_stack_nor_format() {
        assert_eq!(expand(&"{,}".repeat(50_000)), None);
        assert_eq!(expand(&"{0..0}".repeat(20_000)), Some(vec!["0".repeat(20_000)]));
        let wide = format!("{{{}..1}}", "0".repeat(70_000));
        assert_eq!(expand(&wide), Some(vec![wide.clone()]));
    }

    #[test]
    fn too_many_names_are_refused() {
        assert_eq!(expand("{0..99999999999}"), None);
        assert_eq!(expand("{0..999}{0..999}{0..999}"), None);
    }
}
