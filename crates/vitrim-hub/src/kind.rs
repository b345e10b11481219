//! What a reference is opened as.

/// What a reference is opened as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A backbone: `config.json`, weights, and `preprocessor_config.json` where there is one.
    Model,
    /// A policy: `policy.json` and `policy.safetensors`.
    Policy,
    /// Images: parquet files, tar shards, or image files with the tables that label them.
    Data,
}
