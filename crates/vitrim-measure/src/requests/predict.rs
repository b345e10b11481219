//! `predict` and `visualize`: single images.

use std::path::PathBuf;

use serde::Serialize;
use vitrim_vit::Precision;

use super::{ImageArgs, KeepArgs, PolicyArgs, Request, SizeArgs, as_text};
use crate::model::features::FeatureKind;
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
    /// The input size.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub size: SizeArgs,
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
            size: SizeArgs::default(),
            dtype: Precision::F32,
            policy: PolicyArgs::default(),
            keep: KeepArgs::default(),
            top_k: 5,
            features: None,
            reading: ImageArgs::default(),
        }
    }
}

impl Request for PredictRequest {
    const VERB: &'static str = "predict";
    const POSITIONAL: &'static [&'static str] = &["images"];
}

impl PredictRequest {
    /// What to compute for each image.
    pub fn question(&self) -> Question {
        match self.features {
            Some(kind) => Question::Features(kind),
            None => Question::Classes(self.top_k),
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
    /// The input size.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub size: SizeArgs,
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
