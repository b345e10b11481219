//! Checks of configurations. Each error is one line that names the key and its valid values.

/// An error for the first of `counts` (name, value) that is 0.
pub fn positive(counts: &[(&str, usize)]) -> Result<(), String> {
    match counts.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(format!("{name} must be at least 1")),
        None => Ok(()),
    }
}

/// An error for the first of `ranges` (name, value, minimum, maximum) that is not a number, or lies outside.
pub fn within(ranges: &[(&str, f64, f64, f64)]) -> Result<(), String> {
    let outside = |(_, value, low, high): &&(&str, f64, f64, f64)| {
        !(value.is_finite() && (*low..=*high).contains(value))
    };
    match ranges.iter().find(outside) {
        Some((name, value, low, high)) => Err(format!("{name} = {value} must lie between {low} and {high}")),
        None => Ok(()),
    }
}
