//! Names that differ only in how they are spelled: case, accents, blanks.

use unicode_normalization::UnicodeNormalization;

/// Accents as characters of their own.
const ACCENTS: std::ops::RangeInclusive<char> = '\u{300}'..='\u{36f}';
/// Characters that cannot be seen: a byte order mark, a blank without width.
const INVISIBLE: [char; 2] = ['\u{feff}', '\u{200b}'];

/// What names have in common that differ only in case, accents (composed, decomposed or absent), and blanks,
/// underscores and hyphens.
pub(crate) fn spelling(name: &str) -> String {
    let plain: String = name
        .nfkd()
        .filter(|c| !ACCENTS.contains(c) && !INVISIBLE.contains(c))
        .flat_map(char::to_lowercase)
        .collect();
    let words = plain.split(|c: char| c.is_whitespace() || matches!(c, '_' | '-'));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_accents_and_blanks_do_not_count() {
        for name in
            ["Crème_Brûlée", "cre\u{300}me bru\u{302}le\u{301}e", "CREME-BRULEE ", "\u{feff}creme  brulee"]
        {
            assert_eq!(spelling(name), "creme brulee");
        }
        assert_eq!(spelling("Straße"), "straße");
        assert_ne!(spelling("cat"), spelling("cats"));
        assert_eq!(spelling("_"), "");
    }
}
