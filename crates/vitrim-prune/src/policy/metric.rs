//! Merging by a learned metric (DTEM: Lee and Hong, NeurIPS 2024): between attention and MLP of every block, tokens merge as
//! in ToMe, but are alike by the output of a small linear layer instead of by their keys.

use std::borrow::Cow;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use vitrim_kernels::{LayerNorm, Linear};
use vitrim_vit::{Reduction, Site, Taps, View, VitSpec};

use crate::handmade::{Schedule, matching_macs, merge_alike, sites_in_every_block};
use crate::pruner::{ImageKey, PruneError, Pruner, Result};

/// Epsilon of the parameter-free LayerNorm before a metric's layer.
pub const METRIC_NORM_EPS: f32 = 1e-6;
/// Name of the method in a policy file.
pub(super) const NAME: &str = "dtem";

/// The layers of a learned metric, one for each block: from a token at the block's input, normed without parameters, to the
/// vector by which it is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricHeads {
    /// Width of a token, D.
    pub dim: usize,
    /// Width of the vectors that are compared, M.
    pub width: usize,
    /// Weight `[M, D]` and bias `[M]` of each block's layer.
    pub layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl MetricHeads {
    /// Names and shapes of the tensors in a weights file, in the order of the layers.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        shapes(self.layers.len(), self.dim, self.width)
    }

    /// The layers of the first `blocks` blocks alone.
    #[must_use]
    pub fn first(&self, blocks: usize) -> Self {
        MetricHeads { layers: self.layers[..blocks].to_vec(), ..*self }
    }

    /// The pruner whose cost is nearest to `macs` per image; equally many tokens merge in every block.
    pub(super) fn at_cost(&self, spec: &VitSpec, macs: u64) -> Box<dyn Pruner> {
        let layers = self.packed();
        Schedule::Constant.at_cost(spec, macs, |_, merged| self.pruner(&layers, merged))
    }

    /// MACs of an image at the cheapest setting.
    pub(super) fn least_macs(&self, spec: &VitSpec) -> u64 {
        let layers = self.packed();
        Schedule::Constant.least_macs(spec, |_, merged| self.pruner(&layers, merged))
    }

    /// The pruner that merges `removed[l]` tokens in block l, `[L]`.
    pub fn merging(&self, removed: Vec<usize>) -> Box<dyn Pruner> {
        self.pruner(&self.packed(), removed)
    }

    fn pruner(&self, layers: &Arc<Vec<Linear>>, merged: Vec<usize>) -> Box<dyn Pruner> {
        Box::new(MetricPruner { layers: layers.clone(), dim: self.dim, width: self.width, merged })
    }

    fn packed(&self) -> Arc<Vec<Linear>> {
        let layer =
            |(weight, bias): &(Vec<f32>, Vec<f32>)| Linear::new(weight, Some(bias), self.width, self.dim);
        Arc::new(self.layers.iter().map(layer).collect())
    }

    /// The weights file.
    pub(super) fn serialized(&self) -> Vec<u8> {
        let values = self.layers.iter().flat_map(|(weight, bias)| [weight, bias]);
        let bytes: Vec<Vec<u8>> =
            values.map(|values| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
        let views = self.tensor_shapes().into_iter().zip(&bytes).map(|((name, shape), bytes)| {
            (name, TensorView::new(Dtype::F32, shape, bytes).expect("as many bytes as the shape says"))
        });
        safetensors::serialize(views, None).expect("the names are distinct")
    }

    /// The layers for `depth` blocks of width `dim` in a weights file, whose vectors have `width` values.
    ///
    /// # Errors
    /// A description of what is wrong.
    pub(super) fn deserialized(bytes: &[u8], depth: usize, dim: usize, width: usize) -> Result<Self, String> {
        let file =
            SafeTensors::deserialize(bytes).map_err(|error| format!("no safetensors file ({error})"))?;
        let read = |(name, shape): (String, Vec<usize>)| {
            let view = file.tensor(&name).ok();
            let view = view.filter(|view| view.shape() == shape && view.dtype() == Dtype::F32);
            let view = view.ok_or_else(|| format!("no f32 tensor '{name}' of shape {shape:?}"))?;
            let floats = view.data().chunks_exact(4);
            let values: Vec<f32> =
                floats.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(format!("tensor '{name}' has values that are NaN or infinite; train it again")),
            }
        };
        let mut tensors = shapes(depth, dim, width).into_iter().map(read);
        let mut layers = Vec::new();
        while let Some(weight) = tensors.next() {
            layers.push((weight?, tensors.next().expect("a bias after each weight")?));
        }
        Ok(MetricHeads { dim, width, layers })
    }
}

/// Names and shapes of the tensors of `depth` layers, each a weight and a bias.
fn shapes(depth: usize, dim: usize, width: usize) -> Vec<(String, Vec<usize>)> {
    let of_block = |block: usize| {
        let name = |of: &str| format!("blocks.{block}.metric.{of}");
        [(name("weight"), vec![width, dim]), (name("bias"), vec![width])]
    };
    (0..depth).flat_map(of_block).collect()
}

/// Merges given numbers of tokens in every block, by the metric of each.
struct MetricPruner {
    /// The layer of each block.
    layers: Arc<Vec<Linear>>,
    dim: usize,
    width: usize,
    /// Tokens merged after each block's attention, `[L]`.
    merged: Vec<usize>,
}

impl Pruner for MetricPruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        sites_in_every_block(spec, Taps { inputs: true, ..Taps::NONE })
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let missing = || PruneError::Setting(format!("{NAME} needs a view that carries the blocks' inputs"));
        let (inputs, d) = (view.inputs.ok_or_else(missing)?, self.dim);
        let (layer, norm) = (&self.layers[stage], LayerNorm::plain(METRIC_NORM_EPS));
        let metric = |b: usize| {
            let rows = view.rows(b);
            let mut normed = vec![0.0; rows.len() * d];
            norm.forward(&inputs[rows.start * d..rows.end * d], &mut normed, d);
            let mut vectors = vec![0.0; rows.len() * self.width];
            layer.forward(&normed, &mut vectors);
            Cow::Owned(vectors)
        };
        Ok(merge_alike(view, self.merged[stage], self.width, metric).with_proportional_attention())
    }

    fn macs(&self, _: usize, tokens: usize) -> u64 {
        (tokens * self.dim * self.width) as u64 + matching_macs(tokens, self.width)
    }
}
