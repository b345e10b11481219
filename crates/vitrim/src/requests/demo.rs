//! `demo`.

use std::path::PathBuf;

use serde::Serialize;
use vitrim_measure::calibrate::MAX_LOSS;
use vitrim_measure::requests::{Request, as_text};
use vitrim_measure::statistics::Confidence;

/// What to show.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct DemoRequest {
    /// Run folder; an interrupted demo goes on from it.
    #[cfg_attr(feature = "cli", arg(long, default_value_os_t = Self::default().out, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// A minute instead of five, with weaker figures.
    #[cfg_attr(feature = "cli", arg(long))]
    pub quick: bool,
    /// Top-1 drop that may be spent, pp.
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().max_drop, value_name = "PP", allow_negative_numbers = true)
    )]
    pub max_drop: f64,
    /// How sure the calibration shall be that the drop is not exceeded; 0.5 is the point estimate.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().confidence, value_name = "SHARE"))]
    pub confidence: Confidence,
    /// Seed of everything random.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().seed, value_name = "N"))]
    pub seed: u64,
    /// The command line's own, of all commands: threads; 0 for one a core.
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
