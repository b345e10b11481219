//! `eval`: a policy compared with the dense model and the hand-made methods.

use std::path::PathBuf;

use serde::Serialize;
use vitrim_data::Corruption;
use vitrim_prune::Method;
use vitrim_vit::Precision;

use super::{BackboneArgs, DatasetArgs, PolicyArgs, Request, as_text};
use crate::error::{MeasureError, Result};
use crate::passes::{BATCH, PassOptions};

/// What to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct EvalRequest {
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
    /// Data set, or hf://datasets/owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "PATH"))]
    #[serde(serialize_with = "as_text::path")]
    pub data: PathBuf,
    /// The policy.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub policy: PolicyArgs,
    /// Images to evaluate on: test, calibration, train or a split of the data set's own [default: test,
    /// else calibration].
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub split: Option<String>,
    /// Only the first N images.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub images: Option<usize>,
    /// Corrupt every image first, to measure a distribution shift: noise, blur, contrast, brightness or jpeg, -mild
    /// or -severe.
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    #[serde(serialize_with = "as_text::display_option")]
    pub corrupt: Option<Corruption>,
    /// Methods to compare.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', default_values_t = Self::default().methods, value_name = "NAMES")
    )]
    #[serde(serialize_with = "as_text::displays")]
    pub methods: Vec<Method>,
    /// Without a policy: keep ratio of the hand-made methods, as in `bench`. With one: use the mildest setting in
    /// the calibration record that costs no more than a hand-made method at this keep ratio.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_delimiter = ',',
            value_name = "RATIOS",
            conflicts_with_all = ["read_out", "max_drop", "max_drift", "confidence", "gmacs"]
        )
    )]
    pub keep: Vec<f64>,
    /// Do not measure images/s.
    #[cfg_attr(feature = "clap", arg(long))]
    pub no_speed: bool,
    /// Seconds to measure each method's images/s for at each batch size.
    #[cfg_attr(
        feature = "clap",
        arg(long, default_value_t = Self::default().speed_seconds, value_name = "S", conflicts_with = "no_speed")
    )]
    pub speed_seconds: f64,
    /// Images per batch.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().batch, value_name = "N"))]
    pub batch: usize,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: DatasetArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub threads: usize,
    /// Run folder to write a report of these figures into; needs a calibrated policy.
    #[cfg_attr(feature = "clap", arg(long, value_name = "RUN", requires = "policy"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub report: Option<PathBuf>,
}

impl Default for EvalRequest {
    fn default() -> Self {
        EvalRequest {
            model: PathBuf::new(),
            backbone: BackboneArgs::default(),
            dtype: Precision::F32,
            data: PathBuf::new(),
            policy: PolicyArgs::default(),
            split: None,
            images: None,
            corrupt: None,
            methods: ["policy", "random", "cls-attention"]
                .map(|name| name.parse().expect("a method's name"))
                .to_vec(),
            keep: Vec::new(),
            no_speed: false,
            speed_seconds: 4.0,
            batch: BATCH,
            reading: DatasetArgs::default(),
            threads: 0,
            report: None,
        }
    }
}

impl Request for EvalRequest {
    const VERB: &'static str = "eval";
}

impl EvalRequest {
    /// The keep ratio whose cost is requested of a policy, if both are given.
    ///
    /// # Errors
    /// If several keep ratios are given.
    pub fn keep_of_policy(&self) -> Result<Option<f64>> {
        match (self.keep.as_slice(), &self.policy.policy) {
            ([], _) | (_, None) => Ok(None),
            ([keep], Some(_)) => Ok(Some(*keep)),
            (ratios, Some(_)) => Err(MeasureError::Setting(format!(
                "--keep {ratios:?}: a policy is asked for one keep ratio; give a single one"
            ))),
        }
    }

    /// Which images, and how they are loaded.
    pub fn pass(&self) -> PassOptions {
        PassOptions {
            batch: self.batch.max(1),
            workers: self.threads,
            skip: 0,
            images: self.images,
            on_bad_image: self.reading.images.on_bad_image,
            corruption: self.corrupt,
        }
    }

    /// Seconds to measure each method's images/s for; `None` to skip the measurement.
    pub fn speed(&self) -> Option<f64> {
        (!self.no_speed).then_some(self.speed_seconds)
    }
}
