//! The interface of the game, the pruners and the executors.

use std::ops::Range;

use vitrim_kernels::argmax;

use crate::error::{Result, VitError};
use crate::packed::{Origin, Reduction};
use crate::spec::VitSpec;

/// Where inside a block a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// At the block's input, before its first LayerNorm.
    BlockInput,
    /// Between the block's attention (its residual added) and its MLP.
    AfterAttention,
}

/// A place in the network, ordered as the data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// 0-based block; `depth` with [`At::BlockInput`] is the end of the last block.
    pub block: usize,
    /// Where inside the block.
    pub at: At,
}

impl Site {
    /// The input of block `block`.
    pub fn input_of(block: usize) -> Self {
        Site { block, at: At::BlockInput }
    }

    /// The site between attention and MLP of block `block`.
    pub fn after_attention_of(block: usize) -> Self {
        Site { block, at: At::AfterAttention }
    }

    /// The end of the last block, before the final norm.
    pub fn end(spec: &VitSpec) -> Self {
        Site::input_of(spec.depth)
    }

    /// From here on, nothing that happens to a patch token changes the answer of a backbone of geometry `spec`.
    pub fn of_answer(spec: &VitSpec) -> Self {
        if spec.answers_from_prefix() { Site::after_attention_of(spec.depth - 1) } else { Site::end(spec) }
    }

    /// Checks that a state at `self` may move to `to`.
    ///
    /// # Errors
    /// [`VitError::Backwards`] if `to` lies behind or beyond the network's end.
    pub fn check_forward(self, to: Site, spec: &VitSpec) -> Result<()> {
        if to < self || to > Site::end(spec) {
            return Err(VitError::Backwards {
                from: self.to_string(),
                to: to.to_string(),
                depth: spec.depth,
            });
        }
        Ok(())
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.at {
            At::BlockInput => write!(f, "the input of block {}", self.block),
            At::AfterAttention => write!(f, "the attention output of block {}", self.block),
        }
    }
}

/// What the next [`View`] carries besides the tokens, taken from the last attention before the site (at a block's
/// input, the attention of the previous block). At the input of block 0 there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Mean over heads of the class token's attention row, `[T]`. Without a class token: the mean
    /// attention that each token receives from all tokens of its image.
    pub cls_attention: bool,
    /// Mean over heads and queries of the attention that each token receives, `[T]` (MCTF spares tokens by it).
    pub received_attention: bool,
    /// Mean over heads of the keys, `[T, D / heads]` (ToMe matches tokens by it).
    pub keys: bool,
    /// Euclidean norm of each token's value vector over all heads, `[T]` (ATS weights scores by it).
    pub value_norm: bool,
    /// The tokens at the input of the attention's block, before its norm, `[T, D]` (DTEM's metric is learned on them).
    pub inputs: bool,
}

impl Taps {
    /// Nothing but the tokens.
    pub const NONE: Taps = Taps {
        cls_attention: false,
        received_attention: false,
        keys: false,
        value_norm: false,
        inputs: false,
    };
    /// The class token's attention.
    pub const CLS_ATTENTION: Taps = Taps { cls_attention: true, ..Taps::NONE };
    /// All of them.
    pub const ALL: Taps =
        Taps { cls_attention: true, received_attention: true, keys: true, value_norm: true, inputs: true };

    /// The taps in either of the two.
    pub fn or(self, other: Taps) -> Taps {
        Taps {
            cls_attention: self.cls_attention || other.cls_attention,
            received_attention: self.received_attention || other.received_attention,
            keys: self.keys || other.keys,
            value_norm: self.value_norm || other.value_norm,
            inputs: self.inputs || other.inputs,
        }
    }
}

/// Normalised pixels of B images, one after the other, each `[3, H, W]` row-major.
#[derive(Clone, Copy, Debug)]
pub struct PixelBatch<'a> {
    /// The values of all images.
    pub data: &'a [f32],
    /// B, the number of images.
    pub batch: usize,
    /// Height and width of each image, `[B]`, pixels; `None` if all have the backbone's input size.
    sizes: Option<&'a [[usize; 2]]>,
}

impl<'a> PixelBatch<'a> {
    /// Wraps `data: [B, 3, H, W]` of the backbone's input size; [`Backbone::embed`] checks the length.
    pub fn new(data: &'a [f32], batch: usize) -> Self {
        PixelBatch { data, batch, sizes: None }
    }

    /// Wraps images of `sizes: [B]` (height, width), pixels, each `[3, H, W]`. Sizes may differ if the backbone is a NaFlex
    /// one; [`Backbone::embed`] checks it.
    pub fn of_sizes(data: &'a [f32], sizes: &'a [[usize; 2]]) -> Self {
        PixelBatch { data, batch: sizes.len(), sizes: Some(sizes) }
    }

    /// The images at `places` of the batch, for a backbone of geometry `spec`.
    ///
    /// # Panics
    /// If there are no such images, or fewer values than they have.
    #[must_use]
    pub fn part(&self, spec: &VitSpec, places: Range<usize>) -> Self {
        let values = |images: Range<usize>| images.map(|image| image_values(self.size(spec, image))).sum();
        let first: usize = values(0..places.start);
        PixelBatch {
            data: &self.data[first..first + values(places.clone())],
            batch: places.len(),
            sizes: self.sizes.map(|sizes| &sizes[places]),
        }
    }

    /// Height and width of image `image`, pixels, for a backbone of geometry `spec`.
    pub fn size(&self, spec: &VitSpec, image: usize) -> [usize; 2] {
        self.sizes.map_or(spec.img_size, |sizes| sizes[image])
    }

    /// Rows and columns of each image's patches, `[B]`, for a backbone of geometry `spec`.
    pub fn grids(&self, spec: &VitSpec) -> Vec<[usize; 2]> {
        match self.sizes {
            Some(sizes) if spec.is_naflex() => {
                sizes.iter().map(|size| size.map(|side| side / spec.patch_size)).collect()
            }
            _ => vec![spec.grid(); self.batch],
        }
    }

    /// Checks that the images have sizes that `spec` takes, and that there are as many values.
    ///
    /// # Errors
    /// [`VitError::Input`] with the size, or both lengths.
    pub fn check(&self, spec: &VitSpec) -> Result<()> {
        if let Some(sizes) = self.sizes {
            for (image, size) in sizes.iter().enumerate() {
                let wrong = |reason| VitError::Input(format!("image {image} has {reason}"));
                spec.check_image_size(*size).map_err(wrong)?;
            }
            let want = sizes.iter().map(|size| image_values(*size)).sum::<usize>();
            if self.data.len() != want {
                return Err(VitError::Input(format!(
                    "{} pixel values for a batch of {} images, which has {want}",
                    self.data.len(),
                    self.batch
                )));
            }
            return Ok(());
        }
        let [h, w] = spec.img_size;
        let want = self.batch * 3 * h * w;
        if self.data.len() != want {
            return Err(VitError::Input(format!(
                "{} pixel values for a batch of {} images of 3x{h}x{w}, which has {want}",
                self.data.len(),
                self.batch
            )));
        }
        Ok(())
    }
}

/// Values of an image of `size` (height, width), pixels.
pub(crate) fn image_values([height, width]: [usize; 2]) -> usize {
    3 * height * width
}

/// What a pruner sees of a packed batch of T tokens in B images at a site.
#[derive(Clone, Copy, Debug)]
pub struct View<'s> {
    /// The site of the state.
    pub site: Site,
    /// Residual stream, `[T, D]` row-major.
    pub tokens: &'s [f32],
    /// D, the width of a token.
    pub dim: usize,
    /// Prefix tokens per image; they come first.
    pub prefix: usize,
    /// Index of the first row of each image, `[B + 1]`.
    pub offsets: &'s [usize],
    /// Rows and columns of the patches of each image before any pruning, `[B]`.
    pub grids: &'s [[usize; 2]],
    /// Grid position of each token, `[T]`.
    pub origins: &'s [Origin],
    /// Size of each token: the number of patches that it stands for, `[T]`.
    pub sizes: &'s [f32],
    /// See [`Taps::cls_attention`].
    pub cls_attention: Option<&'s [f32]>,
    /// See [`Taps::received_attention`].
    pub received_attention: Option<&'s [f32]>,
    /// See [`Taps::keys`].
    pub keys: Option<&'s [f32]>,
    /// See [`Taps::value_norm`].
    pub value_norm: Option<&'s [f32]>,
    /// See [`Taps::inputs`].
    pub inputs: Option<&'s [f32]>,
}

impl<'s> View<'s> {
    /// B, the number of images.
    pub fn batch(&self) -> usize {
        self.offsets.len() - 1
    }

    /// N0 of image `b`: its patch tokens before any pruning.
    pub fn num_patches(&self, b: usize) -> usize {
        self.grids[b].iter().product()
    }

    /// T, the number of tokens.
    pub fn total(&self) -> usize {
        self.offsets[self.batch()]
    }

    /// Row `t` of the residual stream, `[D]`.
    pub fn token(&self, t: usize) -> &'s [f32] {
        &self.tokens[t * self.dim..(t + 1) * self.dim]
    }

    /// Rows of image `b`, prefix tokens included.
    pub fn rows(&self, b: usize) -> Range<usize> {
        self.offsets[b]..self.offsets[b + 1]
    }

    /// Rows of image `b`'s patch tokens.
    pub fn patch_rows(&self, b: usize) -> Range<usize> {
        self.offsets[b] + self.prefix..self.offsets[b + 1]
    }
}

/// What [`Backbone::finish`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Class logits, `[B, C]`; of a distilled backbone, the mean of both heads.
    Logits,
    /// The classifier's input, `[B, D]`; of a distilled backbone, the mean of both tokens; of a head over class token
    /// and mean, both, `[B, 2D]`.
    Pooled,
    /// The final norm's output, `[T, D]` (timm's `forward_features`).
    Tokens,
    /// The image embedding that is compared with those of texts, not normalised, `[B, P]`: the pooled features through
    /// the projection (CLIP), or themselves (SigLIP).
    Embedding,
}

impl Want {
    /// The answer of a backbone of geometry `spec`: logits; without a head the embedding, if there is a projection, else
    /// the pooled features.
    pub fn answer(spec: &VitSpec) -> Self {
        match (spec.num_classes, spec.pooling.projection) {
            (0, None) => Want::Pooled,
            (0, Some(_)) => Want::Embedding,
            _ => Want::Logits,
        }
    }

    /// Checks that a state at `site`, whose images start at `offsets: [B + 1]`, can give this output.
    ///
    /// # Errors
    /// [`VitError::Input`] if the state is not at the end, an image has no token left to pool, or there is no head.
    pub fn check(self, spec: &VitSpec, site: Site, offsets: &[usize]) -> Result<()> {
        let end = Site::end(spec);
        if site != end {
            return Err(VitError::Input(format!("finish at {site}, before {end}: advance the state first")));
        }
        let least = spec.num_prefix_tokens() + spec.min_patch_tokens();
        let empty = offsets.windows(2).position(|image| image[1] - image[0] < least);
        if let (Some(b), true) = (empty, self != Want::Tokens) {
            return Err(VitError::Input(format!("image {b} has no patch token left to pool")));
        }
        if self == Want::Logits && spec.num_classes == 0 {
            let reason = "this backbone has no classifier head; ask for its features (`vitrim predict --features pooled`)";
            return Err(VitError::Input(reason.into()));
        }
        if self == Want::Embedding && spec.embedding_width().is_none() {
            let reason = "this backbone has no image embedding: it has no projection to a space shared with texts; ask \
                          for its pooled features (`vitrim predict --features pooled`)";
            return Err(VitError::Input(reason.into()));
        }
        Ok(())
    }
}

/// The end of a forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Row-major values, see [`Want`].
    pub values: Vec<f32>,
    /// Values per row.
    pub width: usize,
}

impl Output {
    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// Index of the maximum of each row (of the first maximum, if several are equal).
    pub fn argmax(&self) -> Vec<usize> {
        self.values.chunks_exact(self.width).map(argmax).collect()
    }
}

/// A Vision Transformer whose forward pass can be stopped at any [`Site`], inspected, reduced, forked and finished.
///
/// `State: Clone` makes complete-prefix credit cheap: fork, advance without pruning, finish.
pub trait Backbone: Sync {
    /// A packed batch at some site of the network.
    type State: Clone + Send;

    /// The geometry.
    fn spec(&self) -> &VitSpec;

    /// Runs `pass` on the threads of this executor, so that no step of the pass has to be handed over from another
    /// thread.
    fn enter<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        rayon::scope(|_| pass())
    }

    /// Runs `step`, which is too short to be shared between threads, on this thread, in the middle of a pass. An
    /// executor may keep its other threads awake meanwhile.
    fn short_step<T>(&self, step: impl FnOnce() -> T) -> T {
        step()
    }

    /// Pixels to tokens: the state at the input of block 0.
    ///
    /// # Errors
    /// If the pixels do not fit the geometry.
    fn embed(&self, pixels: PixelBatch<'_>) -> Result<Self::State>;

    /// Runs the network up to `to`; the next view carries `taps`.
    ///
    /// # Errors
    /// If `to` lies behind the state or beyond the last block.
    fn advance(&self, state: &mut Self::State, to: Site, taps: Taps) -> Result<()>;

    /// Runs the rest of the network for the answer alone: any [`Want`] but tokens. If the answer is made of prefix tokens
    /// ([`VitSpec::answers_from_prefix`]), the last block computes only keys and values of the patch tokens, and they
    /// leave; the prefix tokens are the same, bit for bit.
    ///
    /// # Errors
    /// Errors of the executor.
    fn advance_to_answer(&self, state: &mut Self::State) -> Result<()> {
        let (spec, answer) = (self.spec(), Site::of_answer(self.spec()));
        if spec.answers_from_prefix() && self.view(state)?.site <= answer {
            self.advance(state, answer, Taps::NONE)?;
            let reduction = Reduction::prefix(self.view(state)?.offsets, spec.num_prefix_tokens());
            self.reduce(state, &reduction)?;
        }
        self.advance(state, Site::end(spec), Taps::NONE)
    }

    /// The state as a pruner sees it.
    ///
    /// # Errors
    /// If the tokens cannot be read back from the device.
    fn view<'s>(&self, state: &'s Self::State) -> Result<View<'s>>;

    /// Drops or merges rows, physically. The taps are removed.
    ///
    /// # Errors
    /// If the reduction does not fit the state.
    fn reduce(&self, state: &mut Self::State, reduction: &Reduction) -> Result<()>;

    /// Final norm, pooling and head. The state must be at [`Site::end`].
    ///
    /// # Errors
    /// If the state is elsewhere, or logits are wanted and the backbone has no head.
    fn finish(&self, state: &Self::State, want: Want) -> Result<Output>;
}
