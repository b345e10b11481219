//! Limits on what a checkpoint may state. Each is checked before memory for it is taken, and products are checked,
//! too: a configuration of a few bytes may name any geometry. The largest published backbones stay far below.

/// Largest side of an input image, pixels.
pub const MAX_SIDE: usize = 1 << 14;
/// Most pixels of an input image: 4096 x 4096.
pub const MAX_PIXELS: usize = 1 << 24;
/// Most tokens of an image, prefix tokens included.
pub const MAX_TOKENS: usize = 1 << 20;
/// Most values of an image's tokens, `tokens x D`: 1 GiB in f32.
pub const MAX_TOKEN_VALUES: usize = 1 << 28;
/// Largest D, the width of a token.
pub const MAX_DIM: usize = 1 << 14;
/// Most blocks.
pub const MAX_DEPTH: usize = 1 << 10;
/// Largest number of inputs of an MLP's second layer.
pub const MAX_MLP: usize = 1 << 17;
/// Most classes.
pub const MAX_CLASSES: usize = 1 << 20;
/// Most rows of a file of text embeddings: classes times prompts.
pub const MAX_TEXT_ROWS: usize = 1 << 21;
/// Most values of a file of text embeddings: 4 GiB in f32.
pub const MAX_TEXT_VALUES: usize = 1 << 30;
/// Most register tokens.
pub const MAX_REGISTERS: usize = 1 << 10;
/// Most parameters: the largest of timm's that vitrim runs, `vit_7b_patch16_dinov3`, has 6.7e9.
pub const MAX_PARAMETERS: usize = 1 << 33;
/// Largest header of a safetensors file, bytes, as in the safetensors crate: its JSON is read into memory.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Largest `config.json`, `preprocessor_config.json` or index of shards, bytes.
pub const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// Most opcodes of the pickles in a file of `torch.save`: a training script's need some ten thousand.
pub const MAX_PICKLE_OPCODES: usize = 1 << 22;
/// Most characters of a strange value that an error repeats.
pub(crate) const MAX_SHOWN: usize = 80;
