//! Arguments of the commands that train and calibrate.

use std::path::PathBuf;

use vitrim_measure::statistics::Confidence;
use vitrim_train::DeviceChoice;
use vitrim_train::pretrain::WeightType;
use vitrim_vit::Precision;

use super::{KeepArgs, LossArgs, OverlayArgs, PolicyArgs, SizeArgs};
use crate::cli::images::{DatasetArgs, ImageArgs};

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Run folder; an interrupted demo goes on from it.
    #[arg(long, default_value = "runs/demo", value_name = "FOLDER")]
    pub out: PathBuf,
    /// A minute instead of five, with weaker figures.
    #[arg(long)]
    pub quick: bool,
    /// Top-1 drop that may be spent, pp.
    #[arg(long, default_value_t = 0.4, value_name = "PP", allow_negative_numbers = true)]
    pub max_drop: f64,
    /// How sure the calibration shall be that the drop is not exceeded; 0.5 is the point estimate.
    #[arg(long, default_value = "0.9", value_name = "SHARE")]
    pub confidence: Confidence,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Checkpoint folder of the backbone (config.json and model.safetensors, as timm has them), or hf://owner/name.
    #[arg(long, value_name = "FOLDER", required_unless_present = "print_config")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub size: SizeArgs,
    /// Data set: class folders, a flat folder of images, a list of them, Hugging Face parquet files, tar shards, or
    /// hf://datasets/owner/name.
    #[arg(long, value_name = "PATH", required_unless_present = "print_config")]
    pub data: Option<PathBuf>,
    /// Run folder [default: runs/<model>, runs/<model>-<preset>].
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Configuration to start from: default, drop or paper; gumbel and dynamicvit are the controls without reinforcement.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub preset: String,
    #[command(flatten)]
    pub overlay: OverlayArgs,
    /// Updates (`updates`).
    #[arg(long, value_name = "N")]
    pub updates: Option<usize>,
    /// Seed of everything random (`seed`).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub loss: LossArgs,
    /// How sure the calibration shall be that it is not exceeded; 0.5 is the point estimate.
    #[arg(long, default_value = "0.9", value_name = "SHARE")]
    pub confidence: Confidence,
    /// Where gradients are computed: cpu or gpu.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Images to train on.
    #[arg(long, default_value = "train", value_name = "NAME")]
    pub split: String,
    /// Images to calibrate on.
    #[arg(long, default_value = "calibration", value_name = "NAME")]
    pub calibration_split: String,
    /// Images to calibrate on at most.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub calibration_images: usize,
    /// Leave the policy uncalibrated.
    #[arg(long)]
    pub no_calibrate: bool,
    #[command(flatten)]
    pub reading: DatasetArgs,
}

/// How a backbone is trained.
#[derive(Debug, clap::Args)]
pub struct BackboneRunArgs {
    #[command(flatten)]
    pub overlay: OverlayArgs,
    /// Images to see, repetitions counted (`images`).
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// Seed of everything random (`seed`).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Type of the weights that are written: f32 or bf16.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub weights: WeightType,
    /// Where gradients are computed: cpu or gpu.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Images to train on.
    #[arg(long, default_value = "train", value_name = "NAME")]
    pub split: String,
    /// Images to choose the best weights by.
    #[arg(long, default_value = "calibration", value_name = "NAME")]
    pub held_out_split: String,
}

#[derive(Debug, clap::Args)]
pub struct PretrainArgs {
    /// Labelled images: `scenes`, class folders, Hugging Face parquet files, or hf://datasets/owner/name.
    #[arg(long, value_name = "PATH", required_unless_present = "print_config")]
    pub data: Option<PathBuf>,
    /// Configuration to start from: default (photographs) or scenes.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub preset: String,
    /// Checkpoint folder, or hf://owner/name, with the weights to start from [default: random ones].
    #[arg(long, value_name = "FOLDER")]
    pub init: Option<PathBuf>,
    /// Run folder; the backbone goes to its `model/`.
    #[arg(long, default_value = "runs/pretrain", value_name = "FOLDER")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: BackboneRunArgs,
    #[command(flatten)]
    pub reading: ImageArgs,
}

#[derive(Debug, clap::Args)]
pub struct FinetuneArgs {
    /// Checkpoint folder of the backbone, in timm's or transformers' layout, which the result keeps, or hf://owner/name.
    #[arg(long, value_name = "FOLDER", required_unless_present = "print_config")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Without a policy: train the dense model in the same way, the control that says what of a gain is the policy's.
    #[arg(long, conflicts_with = "policy")]
    pub dense: bool,
    /// Data set; labels are used where `label_weight` is above 0, and to report top-1.
    #[arg(long, value_name = "PATH", required_unless_present = "print_config")]
    pub data: Option<PathBuf>,
    /// Run folder; the backbone goes to its `model/`, and the policy, for it, to `policy/`.
    #[arg(long, default_value = "runs/finetune", value_name = "FOLDER")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: BackboneRunArgs,
    #[command(flatten)]
    pub reading: DatasetArgs,
}

#[derive(Debug, clap::Args)]
pub struct CalibrateArgs {
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub size: SizeArgs,
    /// In what the backbone multiplies: f32, bf16 or int8.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: Precision,
    /// Policy folder; its threshold and calibration record are replaced.
    #[arg(long, value_name = "FOLDER")]
    pub policy: PathBuf,
    /// Data set with images that the policy was not trained on.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    #[command(flatten)]
    pub loss: LossArgs,
    /// How sure to be that it is not exceeded; 0.5 is the point estimate.
    #[arg(long, default_value = "0.9", value_name = "SHARE")]
    pub confidence: Confidence,
    /// Images to calibrate on.
    #[arg(long, default_value = "calibration", value_name = "NAME")]
    pub split: String,
    /// Images to calibrate on at most.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub calibration_images: usize,
    #[command(flatten)]
    pub reading: DatasetArgs,
}
