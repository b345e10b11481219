//! The weights of a backbone, packed for the processor, and everything else that passes only read.

use std::sync::Arc;

use vitrim_kernels::{Attention, Bf16Pair, InstructionSet, LayerNorm, Linear, Packing, Precision, Word};

use super::embedding::OriginEmbedding;
use super::heads::{HeadSteps, Rotations};
use super::probe::Probe;
use crate::error::Result;
use crate::spec::VitSpec;
use crate::tensors::Tensors;

/// A Vision Transformer's geometry and packed weights. Sessions share them: see [`CpuBackbone::session`](super::CpuBackbone::session).
pub struct CpuWeights {
    pub(super) spec: VitSpec,
    precision: Precision,
    pub(super) patch: Linear,
    pub(super) origin_embedding: OriginEmbedding,
    /// The norm before block 0.
    pub(super) embedding_norm: Option<LayerNorm>,
    rotations: Option<Arc<Rotations>>,
    pub(super) blocks: Vec<Block>,
    /// The final norm, before or after pooling.
    pub(super) norm: Option<LayerNorm>,
    /// Pooling by attention.
    pub(super) probe: Option<Probe>,
    /// The projection of the pooled features to the space shared with texts.
    pub(super) projection: Option<Linear>,
    pub(super) heads: Vec<Linear>,
    pub(super) attention: Attention,
    pub(super) activations: Activations,
}

/// Data layout of queries, keys and values, and data type of attention's output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activations {
    F32,
    Pairs,
    /// For a projection that takes whole rows of f32 to 8 bits.
    PairsToF32,
}

impl Activations {
    fn of(precision: Precision, isa: InstructionSet, head_dim: usize) -> Self {
        let pairs = isa.multiplies_pairs() && head_dim.is_multiple_of(Bf16Pair::VALUES);
        match precision {
            Precision::Bf16 if pairs => Activations::Pairs,
            Precision::Int8 if pairs => Activations::PairsToF32,
            _ => Activations::F32,
        }
    }
}

pub(super) struct Block {
    pub norm1: LayerNorm,
    pub qkv: Linear,
    /// Operations on queries and keys before attention; `None` if there are none.
    pub heads: Option<HeadSteps>,
    /// The norm of the inputs of `proj`.
    pub attn_norm: Option<LayerNorm>,
    /// Attention's projection. LayerScale is folded into its weights, as into those of `fc2`.
    pub proj: Linear,
    pub norm2: LayerNorm,
    pub fc1: Linear,
    /// The norm of the inputs of `fc2`.
    pub mlp_norm: Option<LayerNorm>,
    pub fc2: Linear,
}

impl CpuWeights {
    /// Packs `tensors` for `spec`, with arithmetic in `precision`: see
    /// [`CpuBackbone::in_precision`](super::CpuBackbone::in_precision).
    pub(super) fn pack(spec: &VitSpec, tensors: &Tensors, precision: Precision) -> Result<Self> {
        spec.check()?;
        let d = spec.dim;
        let get = |name: &str, shape: &[usize]| tensors.get(name, shape);
        let layer =
            |name: &str, outputs: usize, inputs: usize, bias: bool, packing: Packing<'_>| -> Result<Linear> {
                let weight = get(&format!("{name}.weight"), &[outputs, inputs])?;
                let bias = if bias { Some(get(&format!("{name}.bias"), &[outputs])?) } else { None };
                Ok(Linear::packed(&weight, bias.as_deref(), outputs, inputs, packing))
            };
        let linear =
            |name: &str, outputs, inputs, bias| layer(name, outputs, inputs, bias, Packing::new(precision));
        // The last layer of a residual branch, with the branch's LayerScale.
        let last = |name: &str, inputs, scale: &str, bias| -> Result<Linear> {
            let gamma = if spec.layer_scale { Some(get(&format!("{scale}.gamma"), &[d])?) } else { None };
            layer(name, d, inputs, bias, Packing { gamma: gamma.as_deref(), ..Packing::new(precision) })
        };
        let norm_of = |name: &str, width: usize| -> Result<LayerNorm> {
            let bias = || get(&format!("{name}.bias"), &[width]);
            let bias = (!spec.norm.rms).then(bias).transpose()?;
            Ok(spec.norm.with(&get(&format!("{name}.weight"), &[width])?, bias.as_deref()))
        };
        let norm = |name: &str| norm_of(name, d);

        let p = spec.patch_size;
        let patch_weight = get("patch_embed.proj.weight", &[d, 3, p, p])?;
        let patch_bias = spec.embedding.patch_bias.then(|| get("patch_embed.proj.bias", &[d])).transpose()?;
        let origin_embedding = OriginEmbedding::read(spec, tensors)?;
        let rotations = Rotations::of(spec).map(Arc::new);
        let qkv = |name: &str| -> Result<Linear> {
            if !(spec.attention.qkv_bias && spec.attention.unbiased_keys) {
                return linear(&format!("{name}.qkv"), 3 * d, d, spec.attention.qkv_bias);
            }
            let weight = get(&format!("{name}.qkv.weight"), &[3 * d, d])?;
            let mut bias = get(&format!("{name}.q_bias"), &[d])?.into_owned();
            bias.resize(2 * d, 0.0);
            bias.extend_from_slice(&get(&format!("{name}.v_bias"), &[d])?);
            Ok(Linear::packed(&weight, Some(&bias), 3 * d, d, Packing::new(precision)))
        };

        let blocks = (0..spec.depth).map(|l| {
            let name = |part: &str| format!("blocks.{l}.{part}");
            Ok(Block {
                norm1: norm(&name("norm1"))?,
                qkv: qkv(&name("attn"))?,
                heads: HeadSteps::of(spec, rotations.clone(), |part| norm_of(&name(part), spec.head_dim()))?,
                attn_norm: (spec.attention.inner_norm).then(|| norm(&name("attn.norm"))).transpose()?,
                proj: last(&name("attn.proj"), d, &name("ls1"), spec.attention.proj_bias)?,
                norm2: norm(&name("norm2"))?,
                fc1: linear(&name("mlp.fc1"), spec.mlp.first(), d, spec.mlp.bias)?,
                mlp_norm: (spec.mlp.norm).then(|| norm_of(&name("mlp.norm"), spec.mlp.hidden)).transpose()?,
                fc2: last(&name("mlp.fc2"), spec.mlp.hidden, &name("ls2"), spec.mlp.bias)?,
            })
        });
        let heads = spec.head_names().iter().map(|head| {
            layer(head, spec.num_classes, spec.head_inputs(), true, Packing::new(Precision::F32))
        });
        let patch = Packing::new(if precision == Precision::F32 { Precision::F32 } else { Precision::Bf16 });
        Ok(CpuWeights {
            precision,
            activations: match Activations::of(precision, InstructionSet::current(), spec.head_dim()) {
                // A norm reads f32.
                Activations::Pairs if spec.attention.inner_norm => Activations::PairsToF32,
                activations => activations,
            },
            patch: Linear::packed(&patch_weight, patch_bias.as_deref(), d, 3 * p * p, patch),
            origin_embedding,
            blocks: blocks.collect::<Result<_>>()?,
            embedding_norm: spec.embedding_norm().map(norm).transpose()?,
            norm: spec.final_norm().map(norm).transpose()?,
            probe: spec.pooling.attention.map(|pool| Probe::read(pool, spec, tensors)).transpose()?,
            projection: (spec.pooling.projection)
                .map(|width| {
                    let packing = Packing::new(Precision::F32);
                    layer(
                        "visual_projection",
                        width,
                        spec.num_features(),
                        spec.pooling.projection_bias,
                        packing,
                    )
                })
                .transpose()?,
            heads: heads.collect::<Result<_>>()?,
            rotations,
            attention: Attention::new(spec.attention.heads, spec.head_dim(), spec.embedding.class_token),
            spec: spec.clone(),
        })
    }

    /// Lets attention in every block change queries and keys by `change`. Needs a backbone whose queries and keys
    /// have norms.
    #[cfg(test)]
    pub(super) fn change_heads_by_place(&mut self, change: Option<super::heads::ByPlace>) {
        let steps = self.blocks.iter_mut().filter_map(|block| block.heads.as_mut());
        steps.for_each(|steps| steps.by_place = change);
    }

    /// Data type of the layers' multiplication.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of everything that was packed when the weights were loaded.
    pub fn bytes(&self) -> usize {
        let block = |block: &Block| {
            let linears = [&block.qkv, &block.proj, &block.fc1, &block.fc2].map(Linear::bytes);
            let norms = [&block.norm1, &block.norm2].map(LayerNorm::bytes);
            let heads = block.heads.as_ref().map_or(0, HeadSteps::bytes);
            let inner = block.attn_norm.iter().chain(&block.mlp_norm).map(LayerNorm::bytes).sum::<usize>();
            linears.iter().chain(&norms).sum::<usize>() + heads + inner
        };
        self.patch.bytes()
            + self.origin_embedding.bytes()
            + self.blocks.iter().map(block).sum::<usize>()
            + self.norm.iter().chain(&self.embedding_norm).map(LayerNorm::bytes).sum::<usize>()
            + self.rotations.as_ref().map_or(0, |rotations| rotations.bytes())
            + self.probe.as_ref().map_or(0, Probe::bytes)
            + self.projection.as_ref().map_or(0, Linear::bytes)
            + self.heads.iter().map(Linear::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_in_bf16_where_pairs_are_multiplied() {
        for set in InstructionSet::supported() {
            let pairs = ["scalar", "avx512+bf16+vnni"].contains(&set.to_string().as_str());
            let or_f32 = |with_pairs| if pairs { with_pairs } else { Activations::F32 };
            for (precision, even) in [
                (Precision::F32, Activations::F32),
                (Precision::Bf16, or_f32(Activations::Pairs)),
                (Precision::Int8, or_f32(Activations::PairsToF32)),
            ] {
                assert_eq!(Activations::of(precision, set, 64), even, "{precision:?}, {set}");
                assert_eq!(Activations::of(precision, set, 5), Activations::F32, "{precision:?}, {set}");
            }
        }
    }
}
