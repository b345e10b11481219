//! `demo`.

use std::path::PathBuf;

use serde::Serialize;
use vitrim_measure::calibrate::MAX_LOSS;
use vitrim_measure::requests::{Request, as_text};
use vitrim_measure::statistics::Confidence;

/// The demo's settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct DemoRequest {
    /// Run folder; an interrupted demo continues from it.
    #[cfg_attr(feature = "cli", arg(long, default_value_os_t = Self::default().out, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// A minute instead of five, with weaker figures.
    #[cfg_attr(feature = "cli", arg(long))]
    pub quick: bool,
    /// Loss of top-1 that is allowed, pp.
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().max_drop, value_name = "PP", allow_negative_numbers = true)
    )]
    pub max_drop: f64,
    /// Confidence of the bound on the accuracy loss; 0.5 takes the measured value.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().confidence, value_name = "SHARE"))]
    pub confidence: Confidence,
    /// Seed of all random numbers.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().seed, value_name = "N"))]
    pub seed: u64,
    /// The command line's global option: threads; 0 for one per core.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub threads: usize,
}

impl Default for DemoRequest {
    fn default() -> Self {
        DemoRequest {
            out: PathBuf::from("runs/demo"),
            quick: false,
            max_drop: MAX_LOSS,
            confidence: Confidence::DEFAULT,
            seed: 0,
            threads: 0,
        }
    }
}

impl Request for DemoRequest {
    const VERB: &'static str = "demo";
}
