//! Features of an image: pooled, those of every surviving token, or its embedding in a space shared with texts.

use std::fmt;

use serde::{Deserialize, Serialize};
use vitrim_vit::{Backbone, HostState, VitSpec, Want};

use crate::error::{MeasureError, Result};

/// The kind of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum FeatureKind {
    /// The pooled features: the classifier's input.
    Pooled,
    /// The features of each survivor, with its place on the patch grid.
    Tokens,
    /// The embedding that is compared with those of texts (CLIP, SigLIP), not normalised.
    Embedding,
}

impl FeatureKind {
    /// What a backbone is asked for.
    pub fn want(self) -> Want {
        match self {
            FeatureKind::Pooled => Want::Pooled,
            FeatureKind::Tokens => Want::Tokens,
            FeatureKind::Embedding => Want::Embedding,
        }
    }
}

impl fmt::Display for FeatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FeatureKind::Pooled => "pooled",
            FeatureKind::Tokens => "tokens",
            FeatureKind::Embedding => "embedding",
        })
    }
}

/// An image's features, after the last norm (if that comes after pooling, features of tokens are before it).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// Pooled features, `[D]`; for a head over class token and mean, `[2D]`.
    Pooled(Vec<f32>),
    /// Features of each token, prefix tokens first.
    Tokens(Vec<TokenFeatures>),
    /// The embedding, `[P]`.
    Embedding(Vec<f32>),
}

/// A surviving token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenFeatures {
    /// Row and column of its patch on the grid; `None` for a prefix token (class, distillation, register).
    pub place: Option<[usize; 2]>,
    /// Its size: more than 1 if other tokens were merged into it.
    pub size: f32,
    /// Its features, `[D]`.
    pub features: Vec<f32>,
}

/// The features of each image of `state`, which must be at the end of `model`.
///
/// # Errors
/// If an image has no token left to pool, or the backbone has no embedding.
pub fn features(
    model: &impl Backbone<State = HostState>,
    state: &HostState,
    kind: FeatureKind,
) -> Result<Vec<Features>> {
    let output = model.finish(state, kind.want())?;
    let of_image = match kind {
        FeatureKind::Pooled => Some(Features::Pooled as fn(Vec<f32>) -> Features),
        FeatureKind::Embedding => Some(Features::Embedding as fn(Vec<f32>) -> Features),
        FeatureKind::Tokens => None,
    };
    if let Some(features) = of_image {
        return Ok(output.values.chunks_exact(output.width).map(|row| features(row.to_vec())).collect());
    }
    Ok(of_tokens(model.spec(), state, &output.values, 0))
}

/// The patch tokens of each image of `state` as the last block that ran left them, without a norm and without prefix
/// tokens: what models of images and texts read.
pub fn block_features(spec: &VitSpec, state: &HostState) -> Vec<Features> {
    of_tokens(spec, state, &state.packed.tokens, spec.num_prefix_tokens())
}

/// The rows of `values: [T, D]`, the features of all tokens of `state`, image by image, without the first `skipped` of each.
fn of_tokens(spec: &VitSpec, state: &HostState, values: &[f32], skipped: usize) -> Vec<Features> {
    let packed = &state.packed;
    let token = |row: usize, [_, columns]: [usize; 2]| TokenFeatures {
        place: packed.origins[row].grid().map(|position| [position / columns, position % columns]),
        size: packed.sizes[row],
        features: values[row * spec.dim..(row + 1) * spec.dim].to_vec(),
    };
    let image = |(image, grid): (&[usize], &[usize; 2])| {
        Features::Tokens((image[0] + skipped..image[1]).map(|row| token(row, *grid)).collect())
    };
    packed.offsets.windows(2).zip(&packed.grids).map(image).collect()
}

/// The number of blocks to run of a backbone of `depth` blocks for the output of block `block`: 0-based or, if it is
/// negative, from the end, as in timm's `forward_intermediates` and in `hidden_states` of transformers.
///
/// # Errors
/// If there is no such block.
pub fn blocks_up_to(block: i64, depth: usize) -> Result<usize> {
    let last = depth as i64;
    if !(-last..last).contains(&block) {
        return Err(MeasureError::Setting(format!(
            "block {block}: the backbone has {depth} blocks; give 0 to {}, or -{depth} to -1 from the end",
            depth - 1
        )));
    }
    Ok(block.rem_euclid(last) as usize + 1)
}
