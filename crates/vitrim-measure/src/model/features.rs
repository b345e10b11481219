//! What a backbone knows of an image beside its classes: pooled features, or those of every surviving token.

use std::fmt;

use serde::Serialize;
use vitrim_vit::{Backbone, CpuBackbone, HostState, Want};

use crate::error::Result;

/// Which features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum FeatureKind {
    /// The image: what a classifier sees.
    Pooled,
    /// Each token that is left, with its place in the patch grid.
    Tokens,
}

impl fmt::Display for FeatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FeatureKind::Pooled => "pooled",
            FeatureKind::Tokens => "tokens",
        })
    }
}

/// An image's features, after the last norm (where that comes after pooling, tokens are before it).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// `[D]`; of a head over class token and mean, `[2D]`.
    Pooled(Vec<f32>),
    /// Prefix tokens first.
    Tokens(Vec<TokenFeatures>),
}

/// A token that is left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenFeatures {
    /// Row and column of its patch in the grid; `None` for a prefix token (class, distillation, register).
    pub place: Option<[usize; 2]>,
    /// How many patches it stands for: more than 1 where others were merged into it.
    pub size: f32,
    /// `[D]`
    pub features: Vec<f32>,
}

/// The features of each image of `state`, which `model` has brought to its end.
///
/// # Errors
/// If an image has nothing left to pool.
pub fn features(model: &CpuBackbone, state: &HostState, kind: FeatureKind) -> Result<Vec<Features>> {
    let want = match kind {
        FeatureKind::Pooled => Want::Pooled,
        FeatureKind::Tokens => Want::Tokens,
    };
    let output = model.finish(state, want)?;
    if kind == FeatureKind::Pooled {
        return Ok(output
            .values
            .chunks_exact(output.width)
            .map(|row| Features::Pooled(row.to_vec()))
            .collect());
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
