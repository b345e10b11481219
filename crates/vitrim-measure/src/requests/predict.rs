//! `predict` and `visualize`: single images.

use std::path::PathBuf;

use serde::Serialize;
use vitrim_vit::Precision;

use super::{BackboneArgs, ImageArgs, KeepArgs, PolicyArgs, Request, as_text};
use crate::error::{MeasureError, Result};
use crate::model::features::{FeatureKind, blocks_up_to};
use crate::predict::Question;

/// Which images to classify, or to take features of.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct PredictRequest {
    /// Image files, folders of images, or data sets; - for tar shards on standard input.
    #[cfg_attr(feature = "clap", arg(required = true, value_name = "IMAGES"))]
    #[serde(serialize_with = "as_text::paths")]
    pub images: Vec<PathBuf>,
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub model: PathBuf,
    /// The backbone's input size and classes.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub backbone: BackboneArgs,
    /// Data type of the backbone's arithmetic: f32, bf16 or int8.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().dtype, value_name = "TYPE"))]
    #[serde(serialize_with = "as_text::display")]
    pub dtype: Precision,
    /// The policy.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub policy: PolicyArgs,
    /// The policy's cost.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub keep: KeepArgs,
    /// Classes to print.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().top_k, value_name = "N"))]
    pub top_k: usize,
    /// Features instead of classes: one vector per image, or one per token that is left; --json prints their values.
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "KIND", conflicts_with = "top_k"))]
    #[serde(serialize_with = "as_text::display_option")]
    pub features: Option<FeatureKind>,
    /// With --features tokens: the patch tokens after this block, from 0 or, if negative, from the end, without the last
    /// norm; -2 is what LLaVA-like models read.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "BLOCK", allow_negative_numbers = true, requires = "features")
    )]
    pub block: Option<i64>,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: ImageArgs,
}

impl Default for PredictRequest {
    fn default() -> Self {
        PredictRequest {
            images: Vec::new(),
            model: PathBuf::new(),
            backbone: BackboneArgs::default(),
            dtype: Precision::F32,
            policy: PolicyArgs::default(),
            keep: KeepArgs::default(),
            top_k: 5,
            features: None,
            block: None,
            reading: ImageArgs::default(),
        }
    }
}

impl Request for PredictRequest {
    const VERB: &'static str = "predict";
    const POSITIONAL: &'static [&'static str] = &["images"];
}

impl PredictRequest {
    /// What to compute for each image, with a backbone of `depth` blocks.
    ///
    /// # Errors
    /// If `block` is none of the backbone's blocks, or other features than those of tokens are asked for.
    pub fn question(&self, depth: usize) -> Result<Question> {
        match (self.features, self.block) {
            (Some(FeatureKind::Tokens), Some(block)) => Ok(Question::Blocks(blocks_up_to(block, depth)?)),
            (Some(kind), Some(block)) => Err(MeasureError::Setting(format!(
                "--block {block}: {kind} features are those of the last block; --features tokens gives those of others"
            ))),
            (Some(kind), None) => Ok(Question::Features(kind)),
            (None, _) => Ok(Question::Classes(self.top_k)),
        }
    }
}

/// Which images to draw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct VisualizeRequest {
    /// Image files, folders of images, or data sets; - for tar shards on standard input.
    #[cfg_attr(feature = "clap", arg(required = true, value_name = "IMAGES"))]
    #[serde(serialize_with = "as_text::paths")]
    pub images: Vec<PathBuf>,
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub model: PathBuf,
    /// The backbone's input size and classes.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub backbone: BackboneArgs,
    /// Data type of the backbone's arithmetic: f32, bf16 or int8.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().dtype, value_name = "TYPE"))]
    #[serde(serialize_with = "as_text::display")]
    pub dtype: Precision,
    /// The policy.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub policy: PolicyArgs,
    /// The policy's cost.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub keep: KeepArgs,
    /// Folder for the pictures.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: ImageArgs,
}

impl Request for VisualizeRequest {
    const VERB: &'static str = "visualize";
    const POSITIONAL: &'static [&'static str] = &["images"];
}
