//! Fields of a `config.json`, with errors that name them.

use serde_json::Value;

use crate::error::{Result, VitError};
use crate::limits::MAX_SHOWN;

/// The value of `key` as a count; `default` if it is absent or null.
pub(super) fn count_or(config: &Value, key: &str, default: usize) -> Result<usize> {
    present(config, key).map_or(Ok(default), |value| count(key, value))
}

/// The value of `key`, one number for both or [height, width].
pub(super) fn pair_or(config: &Value, key: &str, default: usize) -> Result<[usize; 2]> {
    present(config, key).map_or(Ok([default; 2]), |value| pair(key, value))
}

/// The value of `key` as a number.
pub(super) fn number_or(config: &Value, key: &str, default: f64) -> Result<f64> {
    present(config, key).map_or(Ok(default), |value| number(key, value))
}

/// The value of `key` as a flag.
pub(super) fn flag_or(config: &Value, key: &str, default: bool) -> Result<bool> {
    present(config, key).map_or(Ok(default), |value| flag(key, value))
}

/// The value of `key`, unless it is absent or null.
pub(crate) fn present<'v>(config: &'v Value, key: &str) -> Option<&'v Value> {
    config.get(key).filter(|value| !value.is_null())
}

/// Largest magnitude of a number that is no count: ratios and epsilons are far below.
const MAX_NUMBER: f64 = 1e6;

/// `value` for an error, cut off if it is long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

pub(super) fn count(key: &str, value: &Value) -> Result<usize> {
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < 1 << 24);
    number.ok_or_else(|| wrong(format!("{key} must be a count, not {}", shown(value))))
}

pub(super) fn pair(key: &str, value: &Value) -> Result<[usize; 2]> {
    match value.as_array().map(Vec::as_slice) {
        None => count(key, value).map(|side| [side, side]),
        Some([height, width]) => Ok([count(key, height)?, count(key, width)?]),
        Some(_) => Err(wrong(format!("{key} must be a number or [height, width], not {}", shown(value)))),
    }
}

pub(super) fn number(key: &str, value: &Value) -> Result<f64> {
    value
        .as_f64()
        .filter(|n| n.abs() <= MAX_NUMBER)
        .ok_or_else(|| wrong(format!("{key} must be a number, not {}", shown(value))))
}

pub(super) fn flag(key: &str, value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| wrong(format!("{key} must be true or false, not {}", shown(value))))
}

/// The side of square patches, pixels; an error if they are not square.
pub(super) fn square(key: &str, [height, width]: [usize; 2]) -> Result<usize> {
    if height == width {
        return Ok(height);
    }
    Err(wrong(format!("{key}: only square patches are supported, not {height}x{width}")))
}

/// The error for an invalid value in a configuration.
pub(super) fn wrong(reason: String) -> VitError {
    VitError::Geometry(reason)
}
