//! The command line's grammar: the commands, and the arguments that several of them have.

mod training;
mod using;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use vitrim_measure::model::Opening;
use vitrim_measure::statistics::Confidence;
use vitrim_vit::Precision;

pub use training::{CalibrateArgs, DemoArgs, FinetuneArgs, PretrainArgs, TrainArgs};
pub use using::{
    BenchArgs, CompareArgs, EvalArgs, ExportArgs, InfoArgs, PredictArgs, ReportArgs, VisualizeArgs,
};

/// Makes Vision Transformers faster by learning which tokens of each image to throw away.
#[derive(Debug, Parser)]
#[command(name = "vitrim", version, propagate_version = true)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Args)]
pub struct Global {
    /// Threads that compute, and that decode; 0 for one a core.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but results and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all of it on drawn scenes: a policy learns, the time falls, the accuracy holds.
    Demo(DemoArgs),
    /// Train a policy for a backbone, and calibrate it.
    Train(TrainArgs),
    /// Train a backbone from scratch.
    Pretrain(PretrainArgs),
    /// Train a backbone to do with the tokens that a policy leaves it.
    Finetune(FinetuneArgs),
    /// Choose a policy's threshold so that the drop stays within a limit.
    Calibrate(CalibrateArgs),
    /// Compare a policy with the dense model and the hand-made methods.
    #[command(visible_alias = "evaluate")]
    Eval(EvalArgs),
    /// Compare whole fronts of methods, and methods at the same cost and the same drop.
    Compare(CompareArgs),
    /// Classify images, or give their features.
    Predict(PredictArgs),
    /// Draw which patches of images are kept.
    Visualize(VisualizeArgs),
    /// Lay out a run as a page with its figures.
    Report(ReportArgs),
    /// Write a policy and its model card as a folder to upload to the Hugging Face Hub.
    Export(ExportArgs),
    /// Time a backbone, dense and pruned.
    Bench(BenchArgs),
    /// Show a backbone's geometry and what pruning saves.
    Info(InfoArgs),
}

/// The size that a backbone takes images at.
#[derive(Debug, clap::Args)]
pub struct SizeArgs {
    /// Input size, pixels: a side, or HEIGHTxWIDTH; position embeddings are resampled as the checkpoint's own library
    /// does it [default: the checkpoint's size].
    #[arg(long, value_name = "SIZE", value_parser = img_size)]
    pub img_size: Option<[usize; 2]>,
}

impl SizeArgs {
    /// At this size, in `precision`.
    pub fn opening(&self, precision: Precision) -> Opening {
        Opening { precision, img_size: self.img_size }
    }
}

fn img_size(text: &str) -> Result<[usize; 2], String> {
    let side =
        |text: &str| text.parse::<usize>().map_err(|_| "give a side in pixels, or HEIGHTxWIDTH".to_owned());
    match text.split_once('x') {
        None => side(text).map(|side| [side; 2]),
        Some((height, width)) => Ok([side(height)?, side(width)?]),
    }
}

/// What may be lost.
#[derive(Debug, clap::Args)]
pub struct LossArgs {
    /// Top-1 drop that may be spent, pp [default: that of the configuration or the last calibration, else 0.4].
    #[arg(long, value_name = "PP", allow_negative_numbers = true)]
    pub max_drop: Option<f64>,
    /// For a backbone without classes: drift of its pooled features that may be spent, 100 (1 - cos), percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, conflicts_with = "max_drop")]
    pub max_drift: Option<f64>,
}

/// What is laid over a preset.
#[derive(Debug, clap::Args)]
pub struct OverlayArgs {
    /// TOML file laid over the preset.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Value laid over both, as in seed=7 or one.within.another=0.1; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the configuration in force as TOML, and stop.
    #[arg(long)]
    pub print_config: bool,
}

/// A policy, and how it is read out.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    /// Policy folder, or hf://owner/name; without one, the dense model runs.
    #[arg(long, value_name = "FOLDER")]
    pub policy: Option<PathBuf>,
    /// sample, threshold=0.6 or top-r=0.7,0.49,0.343 [default: what the policy says].
    #[arg(long, value_name = "RULE", requires = "policy")]
    pub read_out: Option<String>,
    /// Another drop than the policy was calibrated to, pp, chosen from its calibration record.
    #[arg(
        long,
        value_name = "PP",
        allow_negative_numbers = true,
        requires = "policy",
        conflicts_with = "read_out"
    )]
    pub max_drop: Option<f64>,
    /// Another drift likewise, percent, of a backbone without classes.
    #[arg(
        long,
        value_name = "PERCENT",
        allow_negative_numbers = true,
        requires = "policy",
        conflicts_with_all = ["read_out", "max_drop"]
    )]
    pub max_drift: Option<f64>,
    /// Another confidence, chosen likewise.
    #[arg(long, value_name = "SHARE", requires = "policy", conflicts_with = "read_out")]
    pub confidence: Option<Confidence>,
    /// The mildest threshold on record that costs no more than this, whatever its drop, 1e9 MACs an image.
    #[arg(
        long,
        value_name = "GMACS",
        requires = "policy",
        conflicts_with_all = ["read_out", "max_drop", "max_drift", "confidence"]
    )]
    pub gmacs: Option<f64>,
}

/// A policy's cost, asked for as a keep ratio.
#[derive(Debug, clap::Args)]
pub struct KeepArgs {
    /// The mildest threshold on record that costs no more than a hand-made method at this keep ratio.
    #[arg(
        long,
        value_name = "RATIO",
        requires = "policy",
        conflicts_with_all = ["read_out", "max_drop", "max_drift", "confidence", "gmacs"]
    )]
    pub keep: Option<f64>,
}
