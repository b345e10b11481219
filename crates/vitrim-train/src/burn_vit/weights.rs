//! Weights in and out, under timm's names.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use vitrim_vit::{Tensors, VitSpec};

use super::BurnVit;
use super::block::{Attention, Block, Mlp};
use crate::error::Result;
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// Reads named tensors onto a device.
struct Reader<'a> {
    spec: &'a VitSpec,
    tensors: &'a Tensors,
    device: &'a Device,
}

impl Reader<'_> {
    /// The tensor `name`, `stored` in the file, as `shape` here.
    fn param<const R: usize>(
        &self,
        name: &str,
        stored: &[usize],
        shape: [usize; R],
    ) -> Result<Param<Tensor<R>>> {
        let values = self.tensors.get(name, stored)?.into_owned();
        Ok(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device)))
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        Ok(Linear {
            weight: self.param(&format!("{name}.weight"), &[outputs, inputs], [outputs, inputs])?,
            bias: bias.then(|| self.param(&format!("{name}.bias"), &[outputs], [outputs])).transpose()?,
        })
    }

    fn norm(&self, name: &str) -> Result<LayerNorm> {
        self.norm_over(name, self.spec.dim)
    }

    fn norm_over(&self, name: &str, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.param(&format!("{name}.weight"), &[width], [width])?,
            bias: self.param(&format!("{name}.bias"), &[width], [width])?,
            epsilon: f64::from(self.spec.norm_eps),
        })
    }

    fn block(&self, l: usize) -> Result<Block> {
        let (spec, d, h) = (self.spec, self.spec.dim, self.spec.mlp_hidden);
        let name = |part: &str| format!("blocks.{l}.{part}");
        let head_norm =
            |part: &str| spec.qk_norm.then(|| self.norm_over(&name(part), spec.head_dim())).transpose();
        let scale = |part: &str| spec.layer_scale.then(|| self.param(&name(part), &[d], [d])).transpose();
        Ok(Block {
            norm1: self.norm(&name("norm1"))?,
            attn: Attention {
                qkv: self.linear(&name("attn.qkv"), d, 3 * d, spec.qkv_bias)?,
                q_norm: head_norm("attn.q_norm")?,
                k_norm: head_norm("attn.k_norm")?,
                proj: self.linear(&name("attn.proj"), d, d, true)?,
                heads: spec.heads,
            },
            ls1: scale("ls1.gamma")?,
            norm2: self.norm(&name("norm2"))?,
            mlp: Mlp {
                fc1: self.linear(&name("mlp.fc1"), d, spec.mlp_first(), true)?,
                fc2: self.linear(&name("mlp.fc2"), h, d, true)?,
                activation: spec.activation,
            },
            ls2: scale("ls2.gamma")?,
        })
    }
}

impl BurnVit {
    /// The backbone `spec` with the weights `tensors`, on `device`; on a device with autodiff, all weights
    /// require gradients.
    ///
    /// # Errors
    /// If the geometry cannot be run, or a tensor is missing, misshapen or of an unread type.
    pub fn new(spec: &VitSpec, tensors: &Tensors, device: &Device) -> Result<Self> {
        spec.check()?;
        let read = Reader { spec, tensors, device };
        let (d, p, c) = (spec.dim, spec.patch_size, spec.num_classes);
        let (pixels, positions) = (3 * p * p, spec.embedded_prefix() + spec.num_patches());
        let prefix_token = |count: usize, name: &str| {
            (count > 0).then(|| read.param(name, &[1, count, d], [count, d])).transpose()
        };
        let head = |wanted: bool, name: &str| {
            wanted.then(|| read.linear(name, spec.num_features(), c, true)).transpose()
        };
        Ok(BurnVit {
            patch_embed: Linear {
                weight: read.param("patch_embed.proj.weight", &[d, 3, p, p], [d, pixels])?,
                bias: Some(read.param("patch_embed.proj.bias", &[d], [d])?),
            },
            cls_token: prefix_token(spec.class_token.into(), "cls_token")?,
            dist_token: prefix_token(spec.distilled.into(), "dist_token")?,
            reg_token: prefix_token(spec.reg_tokens, "reg_token")?,
            pos_embed: read.param("pos_embed", &[1, positions, d], [positions, d])?,
            blocks: (0..spec.depth).map(|l| read.block(l)).collect::<Result<_>>()?,
            norm: read.norm(if spec.fc_norm { "fc_norm" } else { "norm" })?,
            head: head(c > 0, "head")?,
            head_dist: head(c > 0 && spec.distilled, "head_dist")?,
            spec: spec.clone(),
        })
    }

    /// The weights as they are now, under timm's names and in its shapes.
    pub fn tensors(&self) -> Tensors {
        let mut values: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        let mut linear = |name: &str, linear: &Linear| {
            values.insert(format!("{name}.weight"), numbers(&linear.weight));
            if let Some(bias) = &linear.bias {
                values.insert(format!("{name}.bias"), numbers(bias));
            }
        };
        linear("patch_embed.proj", &self.patch_embed);
        for (l, block) in self.blocks.iter().enumerate() {
            linear(&format!("blocks.{l}.attn.qkv"), &block.attn.qkv);
            linear(&format!("blocks.{l}.attn.proj"), &block.attn.proj);
            linear(&format!("blocks.{l}.mlp.fc1"), &block.mlp.fc1);
            linear(&format!("blocks.{l}.mlp.fc2"), &block.mlp.fc2);
        }
        for (name, head) in [("head", &self.head), ("head_dist", &self.head_dist)] {
            if let Some(head) = head {
                linear(name, head);
            }
        }
        let mut norm = |name: &str, norm: &LayerNorm| {
            values.insert(format!("{name}.weight"), numbers(&norm.weight));
            values.insert(format!("{name}.bias"), numbers(&norm.bias));
        };
        norm(if self.spec.fc_norm { "fc_norm" } else { "norm" }, &self.norm);
        for (l, block) in self.blocks.iter().enumerate() {
            norm(&format!("blocks.{l}.norm1"), &block.norm1);
            norm(&format!("blocks.{l}.norm2"), &block.norm2);
            for (name, head) in [("q_norm", &block.attn.q_norm), ("k_norm", &block.attn.k_norm)] {
                if let Some(head) = head {
                    norm(&format!("blocks.{l}.attn.{name}"), head);
                }
            }
        }
        for (l, block) in self.blocks.iter().enumerate() {
            for (name, gamma) in [("ls1", &block.ls1), ("ls2", &block.ls2)] {
                if let Some(gamma) = gamma {
                    values.insert(format!("blocks.{l}.{name}.gamma"), numbers(gamma));
                }
            }
        }
        let tokens = [
            ("cls_token", &self.cls_token),
            ("dist_token", &self.dist_token),
            ("reg_token", &self.reg_token),
        ];
        for (name, token) in tokens {
            if let Some(token) = token {
                values.insert(name.to_owned(), numbers(token));
            }
        }
        values.insert("pos_embed".to_owned(), numbers(&self.pos_embed));

        let named = self.spec.tensor_shapes().into_iter().map(|(name, shape)| {
            let values = values.remove(&name).expect("every tensor of the geometry is a parameter");
            (name, (shape, values))
        });
        Tensors::Owned(named.collect())
    }
}

/// The values of `param`, row-major.
///
/// # Panics
/// If they are not f32.
pub fn numbers<const R: usize>(param: &Param<Tensor<R>>) -> Vec<f32> {
    param.val().try_into_vec_as().expect("the device gives parameters up as f32")
}
