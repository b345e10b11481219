//! A packed batch at a site of the network.

use vitrim_kernels::AttentionTaps;

use crate::backbone::{Site, View};
use crate::error::Result;
use crate::packed::{PackedBatch, Reduction};
use crate::spec::VitSpec;

/// A packed batch in host memory at a site, with the taps of the last attention.
#[derive(Clone, Debug)]
pub struct HostState {
    /// The tokens and their origins.
    pub packed: PackedBatch,
    /// The site of the batch.
    pub site: Site,
    /// The requested outputs of the last attention.
    pub taps: AttentionTaps,
}

impl HostState {
    /// Unpruned images of `grids: [B]` rows and columns of patches at the input of block 0, over `tokens: [T, D]`.
    pub fn embedded(spec: &VitSpec, tokens: Vec<f32>, grids: Vec<[usize; 2]>) -> Self {
        HostState {
            packed: PackedBatch::dense(spec, tokens, grids),
            site: Site::input_of(0),
            taps: AttentionTaps::default(),
        }
    }

    /// The state as a pruner sees it.
    pub fn view(&self, spec: &VitSpec) -> View<'_> {
        View {
            site: self.site,
            tokens: &self.packed.tokens,
            dim: spec.dim,
            prefix: spec.num_prefix_tokens(),
            offsets: &self.packed.offsets,
            grids: &self.packed.grids,
            origins: &self.packed.origins,
            sizes: &self.packed.sizes,
            cls_attention: self.taps.cls_attention.as_deref(),
            received_attention: self.taps.received_attention.as_deref(),
            keys: self.taps.keys.as_deref(),
            value_norm: self.taps.value_norm.as_deref(),
            inputs: self.taps.inputs.as_deref(),
        }
    }

    /// Drops or merges rows; removes the taps.
    ///
    /// # Errors
    /// As [`PackedBatch::reduce`].
    pub fn reduce(&mut self, reduction: &Reduction) -> Result<()> {
        self.packed.reduce(reduction)?;
        self.taps = AttentionTaps::default();
        Ok(())
    }
}
