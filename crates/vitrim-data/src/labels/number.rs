//! Numbers as labels are written: `3`, and `3.0` or `3.00e+0`, as pandas writes a column of integers with a gap.

/// The meaning of a label as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Written {
    /// A whole number.
    Whole(i64),
    /// A number that is no class: not whole, or beyond 2^53, from which on floats are not exact.
    Fraction,
    /// pandas' mark of a gap, `nan`; a word if other labels are words.
    Gap,
    Word,
}

/// Numbers from here on are not exact as floats.
const INEXACT: f64 = (1u64 << 53) as f64;

/// Reads a label without blanks around it.
pub(crate) fn written(label: &str) -> Written {
    if let Ok(whole) = label.parse() {
        return Written::Whole(whole);
    }
    if label.eq_ignore_ascii_case("nan") {
        return Written::Gap;
    }
    // `inf` and `infinity` are numbers for Rust and words for us.
    let begins = label.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    match label.parse::<f64>() {
        Ok(number) if begins && number.is_finite() => match number.fract() == 0.0 && number.abs() < INEXACT {
            true => Written::Whole(number as i64),
            false => Written::Fraction,
        },
        _ => Written::Word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_floats_are_whole_numbers() {
        for (label, whole) in
            [("7", 7), ("007", 7), ("-1", -1), ("3.0", 3), ("3.00e+0", 3), ("1.1e1", 11), ("-1.0", -1)]
        {
            assert_eq!(written(label), Written::Whole(whole), "{label}");
        }
        for label in ["2.5", "1e300", "9007199254740993.0", "-.5"] {
            assert_eq!(written(label), Written::Fraction, "{label}");
        }
        for label in ["cat", "inf", "-infinity", "e", "1a", "0x1", "1 2", "n01440764"] {
            assert_eq!(written(label), Written::Word, "{label}");
        }
        assert_eq!((written("nan"), written("NaN")), (Written::Gap, Written::Gap));
    }
}
