//! The geometry of a backbone, made of parts, under timm's names.

mod parts;
mod shapes;

use std::borrow::Cow;

use serde::Serialize;

use crate::error::{Result, VitError};
use crate::limits::{
    MAX_CLASSES, MAX_DEPTH, MAX_DIM, MAX_MLP, MAX_PARAMETERS, MAX_PIXELS, MAX_REGISTERS, MAX_SIDE,
    MAX_TOKEN_VALUES, MAX_TOKENS,
};
pub use parts::{
    AttentionPool, AttentionSpec, ChannelPairs, Coordinates, Embedding, EmbeddingNorm, MlpActivation,
    MlpSpec, NormSpec, Pool, Pooling, Positions, Rope,
};

/// A plain Vision Transformer: everything that determines its shapes and arithmetic. It is serialised as one flat
/// object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VitSpec {
    /// timm's architecture name, or the transformers class.
    pub architecture: String,
    /// Input height and width, pixels; of a NaFlex backbone, those of an image whose ratio leads to them.
    pub img_size: [usize; 2],
    /// Patch side, pixels.
    pub patch_size: usize,
    /// D: channels of the residual stream.
    pub dim: usize,
    /// L: number of blocks.
    pub depth: usize,
    /// C: number of classes; 0 without a head.
    pub num_classes: usize,
    /// The prefix tokens.
    #[serde(flatten)]
    pub embedding: Embedding,
    /// Which tokens have a position embedding.
    pub positions: Positions,
    /// Attention of every block.
    #[serde(flatten)]
    pub attention: AttentionSpec,
    /// MLP of every block.
    #[serde(flatten)]
    pub mlp: MlpSpec,
    /// All LayerNorms.
    #[serde(flatten)]
    pub norm: NormSpec,
    /// Whether each residual branch ends in a learned scale per channel (LayerScale).
    pub layer_scale: bool,
    /// How the classifier's input is made.
    #[serde(flatten)]
    pub pooling: Pooling,
}

impl VitSpec {
    /// The same backbone for another input size (height, width), in pixels.
    pub fn with_img_size(mut self, img_size: [usize; 2]) -> Self {
        self.img_size = img_size;
        self
    }

    /// The same backbone for inputs of the requested `size` (height, width), in pixels.
    ///
    /// # Errors
    /// [`VitError::Input`] if the patches do not tile the size.
    pub fn at_size(self, size: [usize; 2]) -> Result<Self> {
        let ([height, width], patch) = (size, self.patch_size);
        let tiled = |side: &usize| side.is_multiple_of(patch) || self.embedding.cropped;
        let fits = |side: &usize| (patch..=MAX_SIDE).contains(side) && tiled(side);
        if !size.iter().all(fits) {
            return Err(VitError::Input(format!(
                "inputs of {height}x{width} pixels: patches of {patch} pixels do not tile them; \
                 give multiples of {patch} up to {MAX_SIDE}"
            )));
        }
        let spec = self.with_img_size(size);
        spec.check_limits().map_err(VitError::Input)?;
        Ok(spec)
    }

    /// Rows and columns of the patch grid.
    pub fn grid(&self) -> [usize; 2] {
        self.img_size.map(|side| side / self.patch_size)
    }

    /// Whether each image has a grid of its own (NaFlex), instead of the one of [`img_size`](Self::img_size).
    pub fn is_naflex(&self) -> bool {
        self.embedding.position_grid.is_some()
    }

    /// The backbone as it is for an image of `grid` rows and columns of patches: its costs and shares are that image's.
    pub fn of_grid(&self, grid: [usize; 2]) -> Cow<'_, VitSpec> {
        if grid == self.grid() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(self.clone().with_img_size(grid.map(|side| side * self.patch_size)))
    }

    /// N0: patch tokens of an unpruned image.
    pub fn num_patches(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns
    }

    /// Tokens that are never pruned.
    pub fn num_prefix_tokens(&self) -> usize {
        self.prefix_tokens().map(|(_, rows)| rows).sum()
    }

    /// Prefix tokens, from the first on, that have a position embedding.
    pub fn embedded_prefix(&self) -> usize {
        match self.positions {
            Positions::All => self.num_prefix_tokens(),
            Positions::ClassAndPatches => usize::from(self.embedding.class_token),
            Positions::Patches | Positions::None | Positions::Sines => 0,
        }
    }

    /// The position embeddings of the patches that are computed, `[N0, D]`, row by row; `None` if they are learned, or
    /// there are none. Sines and cosines of the column, then of the row, times D / 4 frequencies from 1 down to 1 / 10000
    /// (exclusive), as in transformers' AIMv2.
    pub fn computed_positions(&self) -> Option<Vec<f32>> {
        if self.positions != Positions::Sines {
            return None;
        }
        let ([rows, columns], bands) = (self.grid(), self.dim / 4);
        let axis = |at: usize| -> Vec<f32> {
            let angle = |band: usize| at as f64 / 10_000f64.powf(band as f64 / bands as f64);
            let sines = (0..bands).map(|band| angle(band).sin() as f32);
            sines.chain((0..bands).map(|band| angle(band).cos() as f32)).collect()
        };
        let (by_row, by_column): (Vec<_>, Vec<_>) =
            ((0..rows).map(axis).collect(), (0..columns).map(axis).collect());
        let place =
            |row: usize, column: usize| [by_column[column].as_slice(), by_row[row].as_slice()].concat();
        Some((0..rows).flat_map(|row| (0..columns).flat_map(move |column| place(row, column))).collect())
    }

    /// Tokens of an unpruned image, prefix tokens included.
    pub fn num_tokens(&self) -> usize {
        self.num_patches() + self.num_prefix_tokens()
    }

    /// Channels per head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.attention.heads
    }

    /// How many patch tokens must stay for the network to have an output: 1 if there are no prefix tokens or the
    /// patch tokens are averaged, otherwise 0.
    pub fn min_patch_tokens(&self) -> usize {
        usize::from(self.num_prefix_tokens() == 0 || self.pooling.pool != Pool::Token)
    }

    /// Whether the answer is made of prefix tokens alone: nothing that the last block does to a patch token after its keys
    /// and values are taken changes the answer.
    pub fn answers_from_prefix(&self) -> bool {
        self.min_patch_tokens() == 0
    }

    /// Width of the pooled features: the number of inputs of a head.
    pub fn num_features(&self) -> usize {
        match self.pooling.pool {
            Pool::Token | Pool::Avg | Pool::Map => self.dim,
            Pool::TokenAvg => 2 * self.dim,
        }
    }

    /// Width of the image embedding in the space that images share with texts: that of the projection or, of SigLIP, of the
    /// pooled features; `None` if there is none.
    pub fn embedding_width(&self) -> Option<usize> {
        let Pooling { pool, projection, contrastive, .. } = self.pooling;
        projection.or((contrastive && pool == Pool::Map).then_some(self.dim))
    }

    /// Inputs of each classifier: the pooled features, or the image embedding.
    pub fn head_inputs(&self) -> usize {
        let embedding = self.embedding_width().filter(|_| self.pooling.zero_shot);
        embedding.unwrap_or_else(|| self.num_features())
    }

    /// The default pruning stages: before blocks 3, 6 and 9 of 12; L/4, L/2 and 3L/4 of L.
    pub fn default_stages(&self) -> Vec<usize> {
        let mut stages: Vec<usize> = (1..=3).map(|k| k * self.depth / 4).filter(|&l| l > 0).collect();
        stages.dedup();
        stages
    }

    /// Checks that an image of `size` (height, width), pixels, can be an input: that it has the one size of the backbone
    /// or, of a NaFlex backbone, that patches tile it and it is within the limits.
    ///
    /// # Errors
    /// The contradiction.
    pub(crate) fn check_image_size(&self, size: [usize; 2]) -> Result<(), String> {
        let ([height, width], [own_height, own_width], patch) = (size, self.img_size, self.patch_size);
        if !self.is_naflex() {
            let same = size == self.img_size;
            return same.then_some(()).ok_or_else(|| {
                format!(
                    "{height}x{width} pixels, and this backbone takes images of {own_height}x{own_width} only"
                )
            });
        }
        if size.iter().any(|side| *side == 0 || !side.is_multiple_of(patch)) {
            return Err(format!("{height}x{width} pixels, which patches of {patch} pixels do not tile"));
        }
        if height.checked_mul(width).is_none_or(|pixels| pixels > MAX_PIXELS) {
            return Err(format!("{height}x{width} pixels, more than the limit of {MAX_PIXELS}"));
        }
        let tokens = height / patch * (width / patch) + self.num_prefix_tokens();
        if tokens > MAX_TOKENS || tokens * self.dim > MAX_TOKEN_VALUES {
            return Err(format!("{tokens} tokens, more than the limit"));
        }
        Ok(())
    }

    /// Checks that no number or product exceeds its limit ([`limits`](crate::limits)), so that sizes cannot overflow.
    ///
    /// # Errors
    /// The number and its limit.
    fn check_limits(&self) -> Result<(), String> {
        let [height, width] = self.img_size;
        // Each factor is checked before its product is computed.
        let within = |what: &str, value: usize, limit: usize| match value <= limit {
            true => Ok(()),
            false => Err(format!("{what} {value} is above the limit of {limit}")),
        };
        for side in self.img_size {
            within("image side", side, MAX_SIDE)?;
        }
        within("patch size", self.patch_size, MAX_SIDE)?;
        within("pixels of an image:", height * width, MAX_PIXELS)?;
        within("width", self.dim, MAX_DIM)?;
        within("depth", self.depth, MAX_DEPTH)?;
        within("MLP width", self.mlp.hidden, MAX_MLP)?;
        let pool = self.pooling.attention.and_then(|pool| pool.mlp);
        within("MLP width of the attention pool", pool.map_or(0, |mlp| mlp.hidden), MAX_MLP)?;
        within("width of the projection", self.pooling.projection.unwrap_or(0), MAX_MLP)?;
        within("number of classes", self.num_classes, MAX_CLASSES)?;
        within("number of register tokens", self.embedding.reg_tokens, MAX_REGISTERS)?;
        let [rows, columns] = self.embedding.position_grid.unwrap_or_default();
        within("rows of positions", rows, MAX_SIDE)?;
        within("columns of positions", columns, MAX_SIDE)?;
        let tokens = self.num_tokens();
        within("tokens of an image:", tokens, MAX_TOKENS)?;
        within("values of an image's tokens:", tokens * self.dim, MAX_TOKEN_VALUES)?;
        within("number of parameters", self.num_parameters(), MAX_PARAMETERS)
    }

    /// Checks that the geometry is supported.
    ///
    /// # Errors
    /// [`VitError::Geometry`] naming the contradiction.
    pub fn check(&self) -> Result<()> {
        let fail = |reason: String| Err(VitError::Geometry(reason));
        if self.patch_size == 0 || self.dim == 0 || self.depth == 0 || self.mlp.hidden == 0 {
            return fail("patch size, width, depth and MLP width must be positive".into());
        }
        let heads = self.attention.heads;
        if heads == 0 || !self.dim.is_multiple_of(heads) {
            return fail(format!("{heads} heads do not divide {} channels", self.dim));
        }
        self.check_limits().map_err(VitError::Geometry)?;
        if !(self.norm.eps.is_finite() && self.norm.eps >= 0.0) {
            return fail(format!("the norms' epsilon is {}", self.norm.eps));
        }
        if self.num_patches() == 0 {
            return fail(format!(
                "an image of {:?} pixels has no patch of {} pixels",
                self.img_size, self.patch_size
            ));
        }
        let tiled = self.img_size.iter().all(|side| side.is_multiple_of(self.patch_size));
        if !tiled && !self.embedding.cropped {
            return fail(format!(
                "patches of {} pixels do not tile an image of {:?} pixels",
                self.patch_size, self.img_size
            ));
        }
        let (Pooling { pool, fc_norm, attention, .. }, Embedding { class_token, distilled, .. }) =
            (self.pooling, self.embedding);
        if matches!(pool, Pool::Token | Pool::TokenAvg) && !class_token {
            return fail("global_pool 'token' needs a class token".into());
        }
        if pool == Pool::TokenAvg && fc_norm {
            return fail("a head over class token and mean has its norm before pooling".into());
        }
        match attention {
            Some(AttentionPool { heads, .. }) if heads == 0 || !self.dim.is_multiple_of(heads) => {
                return fail(format!(
                    "{heads} heads of the attention pool do not divide {} channels",
                    self.dim
                ));
            }
            attention if attention.is_some() != (pool == Pool::Map) => {
                return fail("global_pool 'map' has an attention pool, and no other has one".into());
            }
            _ => {}
        }
        if self.attention.rope.is_some() && !self.head_dim().is_multiple_of(4) {
            return fail(format!(
                "rotary position embeddings need heads of a multiple of 4 channels, not {}",
                self.head_dim()
            ));
        }
        if self.positions == Positions::Sines && !self.dim.is_multiple_of(4) {
            return fail(format!("computed positions need a multiple of 4 channels, not {}", self.dim));
        }
        if let Some([rows, columns]) = self.embedding.position_grid {
            if rows == 0 || columns == 0 {
                return fail(format!("a grid of {rows}x{columns} positions is empty"));
            }
            let learned = !matches!(self.positions, Positions::None | Positions::Sines);
            if !learned || self.attention.rope.is_some() || self.embedding.cropped {
                return fail("a backbone whose images have a grid each needs learned positions alone".into());
            }
        }
        if self.pooling.zero_shot && (self.embedding_width().is_none() || distilled) {
            return fail("a zero-shot classifier needs an image embedding".into());
        }
        if distilled && (pool != Pool::Token || !class_token) {
            return fail("a distilled backbone pools its class and distillation tokens".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `vitrim info --json` prints the serialised geometry.
    #[test]
    fn the_written_form_is_flat() {
        let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        let written: serde_json::Value = serde_json::to_value(&spec).unwrap();
        let expected = serde_json::json!({
            "architecture": "deit_tiny_patch16_224", "img_size": [224, 224], "patch_size": 16, "dim": 192, "depth": 12,
            "heads": 3, "mlp_hidden": 768, "num_classes": 1000, "class_token": true, "distilled": false,
            "reg_tokens": 0, "positions": "all", "pool": "token", "fc_norm": false, "qkv_bias": true,
            "qk_norm": false, "layer_scale": false, "activation": "gelu", "norm_eps": 1e-6f32,
        });
        assert_eq!(written, expected);
    }
}
