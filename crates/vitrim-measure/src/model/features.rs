//! Features of an image: pooled, those of every surviving token, or its embedding in a space shared with texts.

use std::fmt;

use serde::Serialize;
use vitrim_vit::{Backbone, HostState, Want};

use crate::error::Result;

/// The kind of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum FeatureKind {
    /// The pooled features: the classifier's input.
    Pooled,
    /// The features of each survivor, with its place on the patch grid.
    Tokens,
    /// The embedding that is compared with those of texts (CLIP, SigLIP), not normalised.
    Embedding,
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
    let want = match kind {
        FeatureKind::Pooled => Want::Pooled,
        FeatureKind::Tokens => Want::Tokens,
        FeatureKind::Embedding => Want::Embedding,
    };
    let output = model.finish(state, want)?;
    let of_image = match kind {
        FeatureKind::Pooled => Some(Features::Pooled as fn(Vec<f32>) -> Features),
        FeatureKind::Embedding => Some(Features::Embedding as fn(Vec<f32>) -> Features),
        FeatureKind::Tokens => None,
    };
    if let Some(features) = of_image {
        return Ok(output.values.chunks_exact(output.width).map(|row| features(row.to_vec())).collect());
    }
    let (packed, columns) = (&state.packed, model.spec().grid()[1]);
    let token = |row: usize| TokenFeatures {
        place: packed.origins[row].grid().map(|position| [position / columns, position % columns]),
        size: packed.sizes[row],
        features: output.row(row).to_vec(),
    };
    Ok(packed
        .offsets
        .windows(2)
        .map(|image| Features::Tokens((image[0]..image[1]).map(token).collect()))
        .collect())
}
