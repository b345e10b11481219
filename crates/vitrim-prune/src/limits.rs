//! Limits on what a policy may state. Each is checked before memory for it is taken; beyond them, a file is damaged or
//! hostile. The number of weights is bounded by the bytes of the file that holds them.

/// Largest layer width, backbone depth and image side.
pub const MAX_WIDTH: usize = 1 << 16;
/// Most hidden layers of an actor.
pub const MAX_HIDDEN_LAYERS: usize = 16;
/// Largest offset of a stage's logits, up or down.
pub const MAX_OFFSET: f32 = 100.0;
/// Most stages of a policy that fits every backbone.
pub const MAX_STAGES: usize = 1 << 10;
/// Most costs at which a hand-made method is fitted. The search of `diffrate` takes some hundred steps.
pub const MAX_FIT_POINTS: usize = 1 << 14;
/// Largest `policy.json`, bytes. A calibration record takes kilobytes.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Largest `policy.safetensors`, bytes. Trained actors take megabytes.
pub const MAX_WEIGHT_BYTES: u64 = 1 << 30;
