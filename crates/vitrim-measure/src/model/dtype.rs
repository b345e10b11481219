//! [`Precision`] in files and JSON, spelt as on the command line: for `#[serde(with = "crate::model::dtype")]`.

use serde::{Deserialize, Deserializer, Serializer, de};
use vitrim_vit::Precision;

/// Writes `precision` as a string.
///
/// # Errors
/// Errors of the serializer.
pub fn serialize<S: Serializer>(precision: &Precision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(precision)
}

/// Reads what [`serialize`] writes.
///
/// # Errors
/// If the value is not a string, or not the name of a precision.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Precision, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}
