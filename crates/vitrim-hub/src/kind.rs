//! The kind of object for which a reference is opened.

/// The kind of object for which a reference is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A backbone: `config.json`, weights, and `preprocessor_config.json` if there is one.
    Model,
    /// A policy: `policy.json` and `policy.safetensors`.
    Policy,
    /// Images: parquet files, tar shards, or image files with the tables that label them.
    Data,
}
