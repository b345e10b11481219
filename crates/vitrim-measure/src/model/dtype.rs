//! [`Precision`] in files and JSON, as it is spelt on the command line: for `#[serde(with = "crate::model::dtype")]`.

use serde::{Deserialize, Deserializer, Serializer, de};
use vitrim_vit::Precision;

/// Writes `precision` as a string.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(precision: &Precision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(precision)
}

/// Reads what [`serialize`] writes.
///
/// # Errors
/// If it is no string, or no precision's name.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Precision, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}
