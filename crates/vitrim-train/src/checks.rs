//! Checks of configurations and backbones. Each error is one line; that of a configuration names the key and its valid
//! values.

use vitrim_vit::VitSpec;

use crate::error::TrainError;

/// Checks that all images of the backbone have one size, as training its weights needs.
///
/// # Errors
/// [`TrainError::ManySizes`] if each image has a grid of its own.
pub fn one_size(spec: &VitSpec) -> Result<(), TrainError> {
    if spec.is_naflex() { Err(TrainError::ManySizes(spec.architecture.clone())) } else { Ok(()) }
}

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
