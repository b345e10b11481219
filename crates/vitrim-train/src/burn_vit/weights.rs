//! Loads and saves weights under timm's names; the reading and the writing of each part are next to each other.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use vitrim_vit::{MlpSpec, Tensors, VitSpec};

use super::BurnVit;
use super::attention_pool::AttentionPool;
use super::block::{Attention, Block, Mlp};
use crate::checks::one_size;
use crate::error::Result;
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// Reads named tensors onto a device.
struct Reader<'a> {
    spec: &'a VitSpec,
    tensors: &'a Tensors,
    device: &'a Device,
}

/// Values by name.
type Written = BTreeMap<String, Vec<f32>>;

impl Reader<'_> {
    /// The tensor `name`, which has shape `stored` in the file, with shape `shape` here.
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

    /// The norm `name` over `width` channels.
    fn norm(&self, name: &str, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.param(&format!("{name}.weight"), &[width], [width])?,
            bias: (!self.spec.norm.rms)
                .then(|| self.param(&format!("{name}.bias"), &[width], [width]))
                .transpose()?,
            epsilon: f64::from(self.spec.norm.eps),
        })
    }
}

impl Linear {
    fn write(&self, name: &str, to: &mut Written) {
        to.insert(format!("{name}.weight"), numbers(&self.weight));
        if let Some(bias) = &self.bias {
            to.insert(format!("{name}.bias"), numbers(bias));
        }
    }
}

impl LayerNorm {
    fn write(&self, name: &str, to: &mut Written) {
        to.insert(format!("{name}.weight"), numbers(&self.weight));
        if let Some(bias) = &self.bias {
            to.insert(format!("{name}.bias"), numbers(bias));
        }
    }
}

impl Attention {
    fn read(from: &Reader<'_>, name: &str) -> Result<Self> {
        let (spec, d) = (from.spec, from.spec.dim);
        let head_norm = |part: &str| {
            let wanted = spec.attention.qk_norm;
            wanted.then(|| from.norm(&format!("{name}.{part}"), spec.head_dim())).transpose()
        };
        let separate = spec.attention.qkv_bias && spec.attention.unbiased_keys;
        let bias =
            |part: &str| separate.then(|| from.param(&format!("{name}.{part}"), &[d], [d])).transpose();
        Ok(Attention {
            qkv: from.linear(&format!("{name}.qkv"), d, 3 * d, spec.attention.qkv_bias && !separate)?,
            q_bias: bias("q_bias")?,
            v_bias: bias("v_bias")?,
            q_norm: head_norm("q_norm")?,
            k_norm: head_norm("k_norm")?,
            inner_norm: (spec.attention.inner_norm)
                .then(|| from.norm(&format!("{name}.norm"), d))
                .transpose()?,
            proj: from.linear(&format!("{name}.proj"), d, d, spec.attention.proj_bias)?,
            heads: spec.attention.heads,
            rope: spec.attention.rope,
        })
    }

    fn write(&self, name: &str, to: &mut Written) {
        self.qkv.write(&format!("{name}.qkv"), to);
        for (part, bias) in [("q_bias", &self.q_bias), ("v_bias", &self.v_bias)] {
            if let Some(bias) = bias {
                to.insert(format!("{name}.{part}"), numbers(bias));
            }
        }
        for (part, norm) in [("q_norm", &self.q_norm), ("k_norm", &self.k_norm), ("norm", &self.inner_norm)] {
            if let Some(norm) = norm {
                norm.write(&format!("{name}.{part}"), to);
            }
        }
        self.proj.write(&format!("{name}.proj"), to);
    }
}

impl Mlp {
    fn read(from: &Reader<'_>, name: &str, mlp: MlpSpec) -> Result<Self> {
        let d = from.spec.dim;
        Ok(Mlp {
            fc1: from.linear(&format!("{name}.fc1"), d, mlp.first(), mlp.bias)?,
            norm: mlp.norm.then(|| from.norm(&format!("{name}.norm"), mlp.hidden)).transpose()?,
            fc2: from.linear(&format!("{name}.fc2"), mlp.hidden, d, mlp.bias)?,
            activation: mlp.activation,
        })
    }

    fn write(&self, name: &str, to: &mut Written) {
        self.fc1.write(&format!("{name}.fc1"), to);
        if let Some(norm) = &self.norm {
            norm.write(&format!("{name}.norm"), to);
        }
        self.fc2.write(&format!("{name}.fc2"), to);
    }
}

impl Block {
    fn read(from: &Reader<'_>, name: &str) -> Result<Self> {
        let (spec, d) = (from.spec, from.spec.dim);
        let scale = |part: &str| {
            spec.layer_scale.then(|| from.param(&format!("{name}.{part}.gamma"), &[d], [d])).transpose()
        };
        Ok(Block {
            norm1: from.norm(&format!("{name}.norm1"), d)?,
            attn: Attention::read(from, &format!("{name}.attn"))?,
            ls1: scale("ls1")?,
            norm2: from.norm(&format!("{name}.norm2"), d)?,
            mlp: Mlp::read(from, &format!("{name}.mlp"), spec.mlp)?,
            ls2: scale("ls2")?,
        })
    }

    fn write(&self, name: &str, to: &mut Written) {
        self.norm1.write(&format!("{name}.norm1"), to);
        self.attn.write(&format!("{name}.attn"), to);
        self.norm2.write(&format!("{name}.norm2"), to);
        self.mlp.write(&format!("{name}.mlp"), to);
        for (part, gamma) in [("ls1", &self.ls1), ("ls2", &self.ls2)] {
            if let Some(gamma) = gamma {
                to.insert(format!("{name}.{part}.gamma"), numbers(gamma));
            }
        }
    }
}

impl AttentionPool {
    fn read(from: &Reader<'_>, pool: vitrim_vit::AttentionPool) -> Result<Self> {
        let (name, d) = ("attn_pool", from.spec.dim);
        let linear =
            |part: &str, outputs: usize, bias| from.linear(&format!("{name}.{part}"), d, outputs, bias);
        let mlp = |mlp: MlpSpec| -> Result<_> {
            Ok((from.norm(&format!("{name}.norm"), d)?, Mlp::read(from, &format!("{name}.mlp"), mlp)?))
        };
        let (norm, mlp) = pool.mlp.map(mlp).transpose()?.unzip();
        Ok(AttentionPool {
            latent: from.param(&format!("{name}.latent"), &[1, 1, d], [1, d])?,
            q: pool.query.then(|| linear("q", d, pool.bias)).transpose()?,
            kv: linear("kv", 2 * d, pool.bias)?,
            proj: linear("proj", d, true)?,
            norm,
            mlp,
            heads: pool.heads,
            skips_prefix: !pool.prefix,
        })
    }

    fn write(&self, to: &mut Written) {
        to.insert("attn_pool.latent".to_owned(), numbers(&self.latent));
        if let Some(q) = &self.q {
            q.write("attn_pool.q", to);
        }
        self.kv.write("attn_pool.kv", to);
        self.proj.write("attn_pool.proj", to);
        if let (Some(norm), Some(mlp)) = (&self.norm, &self.mlp) {
            norm.write("attn_pool.norm", to);
            mlp.write("attn_pool.mlp", to);
        }
    }
}

impl BurnVit {
    /// The backbone `spec` with the weights `tensors`, on `device`; on a device with autodiff, all weights
    /// require gradients.
    ///
    /// # Errors
    /// If the geometry is not supported, images have many sizes ([`one_size`]), or a tensor is missing, has the wrong
    /// shape, or has a type that is not read.
    pub fn new(spec: &VitSpec, tensors: &Tensors, device: &Device) -> Result<Self> {
        spec.check()?;
        one_size(spec)?;
        let from = Reader { spec, tensors, device };
        let (d, p, c) = (spec.dim, spec.patch_size, spec.num_classes);
        let (pixels, positions) = (3 * p * p, spec.position_rows());
        let prefix_token = |name: &str| {
            let known = spec.prefix_tokens().find(|(known, _)| *known == name);
            known.map(|(_, rows)| from.param(name, &[1, rows, d], [rows, d])).transpose()
        };
        let head = |name: &str| {
            let wanted = spec.head_names().contains(&name);
            wanted.then(|| from.linear(name, spec.head_inputs(), c, true)).transpose()
        };
        Ok(BurnVit {
            patch_embed: Linear {
                weight: from.param("patch_embed.proj.weight", &[d, 3, p, p], [d, pixels])?,
                bias: (spec.embedding.patch_bias)
                    .then(|| from.param("patch_embed.proj.bias", &[d], [d]))
                    .transpose()?,
            },
            cls_token: prefix_token("cls_token")?,
            dist_token: prefix_token("dist_token")?,
            reg_token: prefix_token("reg_token")?,
            pos_embed: (positions > 0)
                .then(|| from.param("pos_embed", &[1, positions, d], [positions, d]))
                .transpose()?,
            embedding_norm: spec.embedding_norm().map(|norm| from.norm(norm, d)).transpose()?,
            blocks: (0..spec.depth)
                .map(|l| Block::read(&from, &format!("blocks.{l}")))
                .collect::<Result<_>>()?,
            norm: spec.final_norm().map(|norm| from.norm(norm, d)).transpose()?,
            attn_pool: spec.pooling.attention.map(|pool| AttentionPool::read(&from, pool)).transpose()?,
            projection: (spec.pooling.projection)
                .map(|width| {
                    let biased = spec.pooling.projection_bias;
                    from.linear("visual_projection", spec.num_features(), width, biased)
                })
                .transpose()?,
            head: head("head")?,
            head_dist: head("head_dist")?,
            spec: spec.clone(),
        })
    }

    /// The current weights, under timm's names and in its shapes.
    pub fn tensors(&self) -> Tensors {
        let mut values = Written::new();
        self.patch_embed.write("patch_embed.proj", &mut values);
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
        if let Some(positions) = &self.pos_embed {
            values.insert("pos_embed".to_owned(), numbers(positions));
        }
        if let (Some(norm), Some(name)) = (&self.embedding_norm, self.spec.embedding_norm()) {
            norm.write(name, &mut values);
        }
        for (l, block) in self.blocks.iter().enumerate() {
            block.write(&format!("blocks.{l}"), &mut values);
        }
        if let (Some(norm), Some(name)) = (&self.norm, self.spec.final_norm()) {
            norm.write(name, &mut values);
        }
        if let Some(pool) = &self.attn_pool {
            pool.write(&mut values);
        }
        if let Some(projection) = &self.projection {
            projection.write("visual_projection", &mut values);
        }
        for (name, head) in [("head", &self.head), ("head_dist", &self.head_dist)] {
            if let Some(head) = head {
                head.write(name, &mut values);
            }
        }

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
