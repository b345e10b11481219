//! The Vision Transformer with gradients (Dosovitskiy et al., 2021; DeiT: Touvron et al., 2021).
//!
//! It is used for training and fine-tuning; the CPU executor is used for inference. Both compute the same logits.
//! LayerNorm, linear layers and MLP run over all tokens of a batch at once, `[T, D]`; a layout says which tokens
//! belong to which image, and how often attention counts them. One forward pass thus serves dense batches, [`Gated`]
//! ones (tokens that have left count 0 times, so that gradients reach the decisions) and packed ones (tokens are
//! removed).

mod attention_pool;
mod backbone;
mod block;
mod gated;
mod pruned;
mod soft;
mod token_layout;
mod weights;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};
use vitrim_vit::{EmbeddingNorm, Pool, VitSpec};

use attention_pool::AttentionPool;
use block::Block;
pub use gated::Gated;
pub use soft::{Metric, Softness, merging_blocks};
use token_layout::TokenLayout;
pub(crate) use weights::numbers;

use crate::linear::Linear;
use crate::norm::LayerNorm;

/// A Vision Transformer as a Burn module.
#[derive(Module, Debug)]
pub struct BurnVit {
    /// Linear layer over a patch's `3 * P * P` pixels, in the order (channel, row, column).
    patch_embed: Linear,
    /// Class token, `[1, D]`.
    cls_token: Option<Param<Tensor<2>>>,
    /// Distillation token, `[1, D]`.
    dist_token: Option<Param<Tensor<2>>>,
    /// Register tokens, `[R, D]`.
    reg_token: Option<Param<Tensor<2>>>,
    /// Position embeddings of the prefix tokens that have one, then of the patches.
    pos_embed: Option<Param<Tensor<2>>>,
    /// The norm before block 0.
    embedding_norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    /// The final norm; with `fc_norm` it comes after pooling.
    norm: Option<LayerNorm>,
    attn_pool: Option<AttentionPool>,
    /// The projection to the space shared with texts.
    projection: Option<Linear>,
    head: Option<Linear>,
    /// Head of the distillation token.
    head_dist: Option<Linear>,
    #[module(skip)]
    spec: VitSpec,
}

/// Inputs of the heads.
struct Pooled {
    /// The class token or the mean of the patch tokens, `[B, D]`, or both, `[B, 2D]`.
    main: Tensor<2>,
    /// The distillation token, `[B, D]`.
    dist: Option<Tensor<2>>,
}

impl Pooled {
    /// The features of `Want::Pooled`: `[B, D]` or `[B, 2D]`; the mean of both tokens if there are two.
    fn features(&self) -> Tensor<2> {
        let main = self.main.clone();
        match &self.dist {
            Some(dist) => (main + dist.clone()).div_scalar(2.0),
            None => main,
        }
    }
}

/// The output of [`BurnVit::forward_pruned`].
pub struct PrunedOutput {
    /// Logits, `[B, C]`; without a head the embedding, `[B, P]`, if there is a projection, else `features`.
    pub answer: Tensor<2>,
    /// Input of a head, `[B, D]`; for a head over class token and mean, both, `[B, 2D]`.
    pub features: Tensor<2>,
}

/// The output of [`BurnVit::forward_patches`].
pub struct PartialOutput {
    /// Logits, `[B, C]`.
    pub logits: Tensor<2>,
    /// Final tokens of the given patches, `[B * M, D]`.
    pub patch_tokens: Tensor<2>,
}

impl BurnVit {
    /// The geometry.
    pub fn spec(&self) -> &VitSpec {
        &self.spec
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.patch_embed.weight.val().device()
    }

    /// Logits `[B, C]` of unpruned images, `pixels: [B, 3, H, W]`.
    ///
    /// # Panics
    /// If the backbone has no head.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let layout = TokenLayout::dense(&self.spec, pixels.dims()[0]);
        let x = self.blocks.iter().fold(self.embed(pixels), |x, block| block.forward(x, &layout));
        self.logits(self.pool(x, &layout))
    }

    /// Runs `pixels: [B, 3, H, W]` with only some patches, as timm's `patch_drop_rate` does. `patches: [B, M]` has
    /// their grid positions (row-major), ascending in each image.
    ///
    /// # Panics
    /// If `patches` does not consist of B rows of one length, or the backbone has no head.
    pub fn forward_patches(&self, pixels: Tensor<4>, patches: &[usize]) -> PartialOutput {
        let batch = pixels.dims()[0];
        let (n, prefix, d) = (self.spec.num_tokens(), self.spec.num_prefix_tokens(), self.spec.dim);
        let seen = patches.len() / batch;
        assert_eq!(seen * batch, patches.len(), "as many patches of each image");
        let image = |(b, patches): (usize, &[usize])| {
            let own = (0..prefix).chain(patches.iter().map(|p| prefix + p));
            own.map(|i| (b * n + i) as i32).collect::<Vec<_>>()
        };
        let rows: Vec<i32> = patches.chunks_exact(seen).enumerate().flat_map(image).collect();
        let count = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &pixels.device());
        let layout = TokenLayout::of_patches(&self.spec, batch, patches);
        let x = self.embed(pixels).select(0, rows);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, &layout));
        let patch_tokens = layout.spread(self.final_tokens(x.clone())).narrow(1, prefix, seen);
        PartialOutput {
            logits: self.logits(self.pool(x, &layout)),
            patch_tokens: patch_tokens.reshape([batch * seen, d]),
        }
    }

    /// Final tokens `[B * N, D]` of unpruned images: normed, unless the norm comes after pooling
    /// (timm's `forward_features`).
    pub fn forward_features(&self, pixels: Tensor<4>) -> Tensor<2> {
        let layout = TokenLayout::dense(&self.spec, pixels.dims()[0]);
        let x = self.blocks.iter().fold(self.embed(pixels), |x, block| block.forward(x, &layout));
        self.final_tokens(x)
    }

    /// The learned tokens and the position embedding, which weight decay spares.
    pub fn tokens_and_positions(&self) -> Vec<ParamId> {
        let tokens = [&self.cls_token, &self.dist_token, &self.reg_token];
        let tokens = tokens.into_iter().flatten().map(|token| token.id);
        let probe = self.attn_pool.iter().map(|pool| pool.latent.id);
        tokens.chain(self.pos_embed.iter().map(|positions| positions.id)).chain(probe).collect()
    }

    /// Patch embedding, prefix tokens, position embedding: `[B, 3, H, W]` to `[B * N, D]`.
    fn embed(&self, pixels: Tensor<4>) -> Tensor<2> {
        let (batch, p, d) = (pixels.dims()[0], self.spec.patch_size, self.spec.dim);
        let [rows, columns] = self.spec.grid();
        // The patches may leave pixels out at the end.
        let pixels = match self.spec.embedding.cropped {
            true => pixels.narrow(2, 0, rows * p).narrow(3, 0, columns * p),
            false => pixels,
        };
        let patches = pixels
            .reshape([batch, 3, rows, p, columns, p])
            .permute([0, 2, 4, 1, 3, 5]) // [B, rows, columns, 3, P, P]
            .reshape([batch * rows * columns, 3 * p * p]);
        let mut patches = self.patch_embed.forward(patches);
        if let (EmbeddingNorm::Patches, Some(norm)) = (self.spec.embedding.norm, &self.embedding_norm) {
            patches = norm.forward(patches);
        }
        let patches = patches.reshape([batch, rows * columns, d]);
        let prefix = [&self.cls_token, &self.dist_token, &self.reg_token];
        let mut tokens: Vec<Tensor<3>> = prefix
            .into_iter()
            .flatten()
            .map(|token| token.val().unsqueeze::<3>().repeat_dim(0, batch))
            .collect();
        tokens.push(patches);
        let mut x = Tensor::cat(tokens, 1); // [B, N, D]
        if let Some(positions) = self.positions(&x.device()) {
            x = x + positions.unsqueeze::<3>();
        }
        let x = x.reshape([batch * self.spec.num_tokens(), d]);
        match (self.spec.embedding.norm, &self.embedding_norm) {
            (EmbeddingNorm::Tokens, Some(norm)) => norm.forward(x),
            _ => x,
        }
    }

    /// Position embeddings, `[N, D]`, 0 for prefix tokens without a position; `None` if no token has one.
    fn positions(&self, device: &Device) -> Option<Tensor<2>> {
        let (patches, embedded) = (self.spec.num_patches(), self.spec.embedded_prefix());
        let computed = self.spec.computed_positions();
        let computed = computed
            .map(|values| Tensor::from_data(TensorData::new(values, [patches, self.spec.dim]), device));
        let positions = computed.or_else(|| Some(self.pos_embed.as_ref()?.val()))?;
        let without = self.spec.num_prefix_tokens() - embedded;
        if without == 0 {
            return Some(positions);
        }
        let zeros = Tensor::zeros([without, self.spec.dim], device);
        let patches = positions.clone().narrow(0, embedded, patches);
        if embedded == 0 {
            return Some(Tensor::cat(vec![zeros, patches], 0));
        }
        Some(Tensor::cat(vec![positions.narrow(0, 0, embedded), zeros, patches], 0))
    }

    fn final_tokens(&self, x: Tensor<2>) -> Tensor<2> {
        if self.spec.pooling.fc_norm { x } else { self.normed(x) }
    }

    /// `x: [R, D]` after the final norm, if there is one.
    fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// The image embedding of pooled features.
    fn embedding(&self, pooled: &Pooled) -> Tensor<2> {
        match &self.projection {
            Some(projection) => projection.forward(pooled.features()),
            None => pooled.features(),
        }
    }

    fn pool(&self, x: Tensor<2>, layout: &TokenLayout) -> Pooled {
        let images = layout.spread(self.final_tokens(x)); // [B, n, D]
        // A norm after pooling is one of the pooled vector.
        let normed = |x: Tensor<2>| if self.spec.pooling.fc_norm { self.normed(x) } else { x };
        let token = |i: usize| normed(images.clone().narrow(1, i, 1).squeeze_dim::<2>(1));
        let mean = || {
            let prefix = self.spec.num_prefix_tokens();
            let patches = images.clone().narrow(1, prefix, images.dims()[1] - prefix);
            let mean = match layout.weights() {
                Some(weights) => (patches * weights.unsqueeze_dim::<3>(2)).sum_dim(1),
                None => patches.mean_dim(1),
            };
            normed(mean.squeeze_dim::<2>(1))
        };
        match self.spec.pooling.pool {
            Pool::Token => Pooled { main: token(0), dist: self.spec.embedding.distilled.then(|| token(1)) },
            Pool::Avg => Pooled { main: mean(), dist: None },
            Pool::Map => {
                let pool = self.attn_pool.as_ref().expect("a checked geometry that pools by attention");
                let prefix = self.spec.num_prefix_tokens();
                Pooled { main: normed(pool.forward(images.clone(), layout, prefix)), dist: None }
            }
            Pool::TokenAvg => Pooled { main: Tensor::cat(vec![token(0), mean()], 1), dist: None },
        }
    }

    fn logits(&self, pooled: Pooled) -> Tensor<2> {
        let inputs = if self.spec.pooling.zero_shot {
            let embedding = self.embedding(&pooled);
            let length = embedding.clone().square().sum_dim(1).sqrt();
            // An embedding of 0 is like no text.
            embedding / length.clamp_min(f32::MIN_POSITIVE)
        } else {
            pooled.main
        };
        let logits = self.head.as_ref().expect("a backbone with a head").forward(inputs);
        match (&self.head_dist, pooled.dist) {
            (Some(head), Some(dist)) => (logits + head.forward(dist)).div_scalar(2.0),
            _ => logits,
        }
    }
}

/// `values` as pixels `[B, 3, H, W]` on `device`.
fn pixel_tensor(values: &[f32], batch: usize, spec: &VitSpec, device: &Device) -> Tensor<4> {
    let [height, width] = spec.img_size;
    Tensor::from_data(TensorData::new(values.to_vec(), [batch, 3, height, width]), device)
}
