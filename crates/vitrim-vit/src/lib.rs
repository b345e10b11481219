//! Vision Transformer backbones over packed batches.
//!
//! Data flows one way: pixels `[B, 3, H, W]` -> packed tokens `[T, D]` -> blocks, with reductions of the packed batch
//! between them -> logits. Reductions are physical: a token that is dropped takes no more time.
//!
//! * [`families`]: the supported backbones; from a configuration to geometry and tensor names.
//! * [`Checkpoint`]: a backbone in the layout of timm or transformers: geometry, weights, preprocessing.
//! * [`VitSpec`]: the geometry of a backbone, made of parts, from its configuration or from its timm name.
//! * [`TextClasses`]: classes that texts describe, with which an image tower becomes a classifier.
//! * [`Tensors`]: the weights by timm's names, read from files on demand, or random.
//! * [`Backbone`]: the interface that the game, the pruners and the executors share.
//! * [`CpuBackbone`]: a session of the CPU executor, in f32, bf16 or 8 bits; sessions share [`CpuWeights`].
//! * [`limits`]: what a checkpoint may state.
//! * [`cost`]: MACs of the forward pass actually run.
//!
//! ```
//! use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, Site, Taps, Tensors, VitSpec, Want};
//! let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
//! let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 0)).unwrap();
//! let pixels = vec![0.0; 3 * 32 * 32];
//! let mut state = model.embed(PixelBatch::new(&pixels, 1)).unwrap();
//! model.advance(&mut state, Site::end(&spec), Taps::NONE).unwrap();
//! assert_eq!(model.finish(&state, Want::Logits).unwrap().values.len(), 1000);
//! ```

mod backbone;
mod checkpoint;
mod classes;
pub mod cost;
mod error;
mod executor;
pub mod families;
pub mod limits;
mod names;
mod packed;
mod places;
mod positions;
mod profile;
mod spec;
mod state;
mod tensors;
mod text;
mod text_classes;
mod weight_files;

pub use backbone::{At, Backbone, Output, PixelBatch, Site, Taps, View, Want};
pub use checkpoint::Checkpoint;
pub use classes::ClassNames;
pub use error::{Result, VitError};
pub use executor::{CpuBackbone, CpuWeights, Interruptible, SessionOptions, Threads};
pub use packed::{Origin, PackedBatch, Reduction};
pub use places::GridPlaces;
pub use profile::{Operation, Profile};
pub use spec::{
    AttentionPool, AttentionSpec, ChannelPairs, Coordinates, Embedding, EmbeddingNorm, MlpActivation,
    MlpSpec, NormSpec, Pool, Pooling, Positions, Rope, VitSpec,
};
pub use state::HostState;
pub use tensors::{NamedTensor, Tensors};
pub use text::is_lfs_pointer;
pub use text_classes::TextClasses;
pub use vitrim_kernels::{AttentionTaps, Precision};
pub use weight_files::WeightFiles;
