//! The geometry of a backbone, under timm's names.

use serde::{Deserialize, Serialize};

use crate::error::{Result, VitError};

/// Pixels of an image's side at most.
const MAX_SIDE: usize = 1 << 14;

/// How the classifier's input is made from the final tokens (timm's `global_pool`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The class token.
    Token,
    /// The mean of the patch tokens.
    Avg,
    /// The class token, then the mean of the patch tokens, `[2D]` (the linear head of transformers' DINOv2).
    TokenAvg,
}

/// Which tokens have a position embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Every token.
    #[default]
    All,
    /// The class token and the patches (transformers' DINOv2 with registers).
    ClassAndPatches,
    /// The patches alone (timm's `no_embed_class`: DeiT-III, DINOv2 with registers).
    Patches,
}

/// What lies between the two layers of the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Exact GELU.
    #[default]
    Gelu,
    /// SwiGLU: the first layer gives `2 mlp_hidden` values, of which SiLU of the first half weighs the second
    /// (DINOv2-g; timm's `SwiGLUPacked`).
    SwiGlu,
}

/// A plain Vision Transformer: everything that fixes its shapes and arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitSpec {
    /// timm's architecture name, or the class of transformers.
    pub architecture: String,
    /// Input height and width, pixels.
    pub img_size: [usize; 2],
    /// Patch side, pixels.
    pub patch_size: usize,
    /// D: channels of the residual stream.
    pub dim: usize,
    /// L: number of blocks.
    pub depth: usize,
    /// Attention heads; divides `dim`.
    pub heads: usize,
    /// Inputs of the MLP's second layer.
    pub mlp_hidden: usize,
    /// C: number of classes; 0 without a head.
    pub num_classes: usize,
    /// Whether there is a class token.
    pub class_token: bool,
    /// Whether there is a distillation token with a head of its own (DeiT).
    pub distilled: bool,
    /// Register tokens, after class and distillation token.
    pub reg_tokens: usize,
    /// Which tokens have a position embedding.
    pub positions: Positions,
    /// What the classifier sees.
    pub pool: Pool,
    /// Whether the norm comes after pooling (timm's `fc_norm`) instead of before.
    pub fc_norm: bool,
    /// Whether the QKV projection has a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys pass a LayerNorm.
    pub qk_norm: bool,
    /// Whether each residual branch ends in a learned scale of its channels (LayerScale).
    pub layer_scale: bool,
    /// What lies between the two layers of the MLP.
    pub activation: Activation,
    /// Epsilon of every LayerNorm.
    pub norm_eps: f32,
}

impl VitSpec {
    /// The same backbone for another input size (height, width), in pixels.
    pub fn with_img_size(mut self, img_size: [usize; 2]) -> Self {
        self.img_size = img_size;
        self
    }

    /// The same backbone for inputs of `size` (height, width), in pixels, which somebody asked for.
    ///
    /// # Errors
    /// [`VitError::Input`] if patches do not tile it.
    pub fn at_size(self, size: [usize; 2]) -> Result<Self> {
        let ([height, width], patch) = (size, self.patch_size);
        let fits = |side: &usize| (patch..=MAX_SIDE).contains(side) && side.is_multiple_of(patch);
        if !size.iter().all(fits) {
            return Err(VitError::Input(format!(
                "inputs of {height}x{width} pixels: patches of {patch} pixels do not tile them; \
                 give multiples of {patch} up to {MAX_SIDE}"
            )));
        }
        Ok(self.with_img_size(size))
    }

    /// Rows and columns of the patch grid.
    pub fn grid(&self) -> [usize; 2] {
        self.img_size.map(|side| side / self.patch_size)
    }

    /// N0: patch tokens of an unpruned image.
    pub fn num_patches(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns
    }

    /// Tokens that are never pruned.
    pub fn num_prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + usize::from(self.distilled) + self.reg_tokens
    }

    /// Prefix tokens, from the first on, that have a position embedding.
    pub fn embedded_prefix(&self) -> usize {
        match self.positions {
            Positions::All => self.num_prefix_tokens(),
            Positions::ClassAndPatches => usize::from(self.class_token),
            Positions::Patches => 0,
        }
    }

    /// Tokens of an unpruned image, prefix tokens included.
    pub fn num_tokens(&self) -> usize {
        self.num_patches() + self.num_prefix_tokens()
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// How many patch tokens must stay for the network to have an output: 1 without prefix tokens
    /// or where they are averaged, else 0.
    pub fn min_patch_tokens(&self) -> usize {
        usize::from(self.num_prefix_tokens() == 0 || self.pool != Pool::Token)
    }

    /// Outputs of the MLP's first layer.
    pub fn mlp_first(&self) -> usize {
        match self.activation {
            Activation::Gelu => self.mlp_hidden,
            Activation::SwiGlu => 2 * self.mlp_hidden,
        }
    }

    /// Pooled features: what a head sees.
    pub fn num_features(&self) -> usize {
        match self.pool {
            Pool::Token | Pool::Avg => self.dim,
            Pool::TokenAvg => 2 * self.dim,
        }
    }

    /// The seed paper's pruning stages: before blocks 3, 6 and 9 of 12; L/4, L/2 and 3L/4 of L.
    pub fn default_stages(&self) -> Vec<usize> {
        let mut stages: Vec<usize> = (1..=3).map(|k| k * self.depth / 4).filter(|&l| l > 0).collect();
        stages.dedup();
        stages
    }

    /// Names of the classifier heads: none without classes, two after distillation.
    pub fn head_names(&self) -> &'static [&'static str] {
        match (self.num_classes, self.distilled) {
            (0, _) => &[],
            (_, false) => &["head"],
            (_, true) => &["head", "head_dist"],
        }
    }

    /// Name and shape of every tensor, in timm's layout.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, h, first) = (self.dim, self.mlp_hidden, self.mlp_first());
        let mut shapes = Vec::new();
        let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
        add("patch_embed.proj.weight".into(), &[d, 3, self.patch_size, self.patch_size]);
        add("patch_embed.proj.bias".into(), &[d]);
        add("pos_embed".into(), &[1, self.embedded_prefix() + self.num_patches(), d]);
        if self.class_token {
            add("cls_token".into(), &[1, 1, d]);
        }
        if self.distilled {
            add("dist_token".into(), &[1, 1, d]);
        }
        if self.reg_tokens > 0 {
            add("reg_token".into(), &[1, self.reg_tokens, d]);
        }
        for l in 0..self.depth {
            let mut block = |name: &str, shape: &[usize]| add(format!("blocks.{l}.{name}"), shape);
            block("norm1.weight", &[d]);
            block("norm1.bias", &[d]);
            block("attn.qkv.weight", &[3 * d, d]);
            if self.qkv_bias {
                block("attn.qkv.bias", &[3 * d]);
            }
            for norm in ["q_norm", "k_norm"].iter().filter(|_| self.qk_norm) {
                block(&format!("attn.{norm}.weight"), &[self.head_dim()]);
                block(&format!("attn.{norm}.bias"), &[self.head_dim()]);
            }
            block("attn.proj.weight", &[d, d]);
            block("attn.proj.bias", &[d]);
            if self.layer_scale {
                block("ls1.gamma", &[d]);
            }
            block("norm2.weight", &[d]);
            block("norm2.bias", &[d]);
            block("mlp.fc1.weight", &[first, d]);
            block("mlp.fc1.bias", &[first]);
            block("mlp.fc2.weight", &[d, h]);
            block("mlp.fc2.bias", &[d]);
            if self.layer_scale {
                block("ls2.gamma", &[d]);
            }
        }
        let norm = if self.fc_norm { "fc_norm" } else { "norm" };
        add(format!("{norm}.weight"), &[d]);
        add(format!("{norm}.bias"), &[d]);
        for head in self.head_names() {
            add(format!("{head}.weight"), &[self.num_classes, self.num_features()]);
            add(format!("{head}.bias"), &[self.num_classes]);
        }
        shapes
    }

    /// Number of parameters.
    pub fn num_parameters(&self) -> usize {
        self.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Checks that the geometry can be run.
    ///
    /// # Errors
    /// [`VitError::Geometry`] naming the contradiction.
    pub fn check(&self) -> Result<()> {
        let fail = |reason: String| Err(VitError::Geometry(reason));
        if self.patch_size == 0 || self.dim == 0 || self.depth == 0 || self.mlp_hidden == 0 {
            return fail("patch size, width, depth and MLP width must be positive".into());
        }
        if self.heads == 0 || !self.dim.is_multiple_of(self.heads) {
            return fail(format!("{} heads do not divide {} channels", self.heads, self.dim));
        }
        if self.num_patches() == 0 {
            return fail(format!(
                "an image of {:?} pixels has no patch of {} pixels",
                self.img_size, self.patch_size
            ));
        }
        if self.img_size.iter().any(|side| !side.is_multiple_of(self.patch_size)) {
            return fail(format!(
                "patches of {} pixels do not tile an image of {:?} pixels",
                self.patch_size, self.img_size
            ));
        }
        if self.pool != Pool::Avg && !self.class_token {
            return fail("global_pool 'token' needs a class token".into());
        }
        if self.pool == Pool::TokenAvg && self.fc_norm {
            return fail("a head over class token and mean has its norm before pooling".into());
        }
        if self.distilled && (self.pool != Pool::Token || !self.class_token) {
            return fail("a distilled backbone pools its class and distillation tokens".into());
        }
        Ok(())
    }
}
