//! The command line's grammar.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use vitrim::Method;
use vitrim::features::FeatureKind;
use vitrim::loaded::Opening;
use vitrim::stats::Confidence;
use vitrim_data::Corruption;
use vitrim_train::DeviceChoice;
use vitrim_train::pretrain::WeightType;
use vitrim_vit::Precision;

use super::images::{DatasetArgs, ImageArgs};

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

fn rival(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("give NAME=FOLDER, as in gumbel=runs/gumbel/policy")?;
    Ok((name.to_owned(), PathBuf::from(folder)))
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

/// What features are of.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FeaturesOf {
    /// The image: what a classifier sees.
    Pooled,
    /// Each token that is left, with its place in the patch grid.
    Tokens,
}

impl From<FeaturesOf> for FeatureKind {
    fn from(choice: FeaturesOf) -> Self {
        match choice {
            FeaturesOf::Pooled => FeatureKind::Pooled,
            FeaturesOf::Tokens => FeatureKind::Tokens,
        }
    }
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

/// Type of the weights of a backbone that is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Weights {
    /// As they were trained.
    F32,
    /// Half the size.
    Bf16,
}

impl From<Weights> for WeightType {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::F32 => WeightType::F32,
            Weights::Bf16 => WeightType::Bf16,
        }
    }
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
    pub overlay: OverlayArgs,
    /// Images to see, repetitions counted (`images`).
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// Seed of everything random (`seed`).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Type of the weights that are written.
    #[arg(long, value_enum, default_value = "f32")]
    pub weights: Weights,
    /// Where gradients are computed: cpu or gpu.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Images to train on.
    #[arg(long, default_value = "train", value_name = "NAME")]
    pub split: String,
    /// Images to choose the best weights by.
    #[arg(long, default_value = "calibration", value_name = "NAME")]
    pub held_out_split: String,
    #[command(flatten)]
    pub reading: ImageArgs,
}

#[derive(Debug, clap::Args)]
pub struct FinetuneArgs {
    /// Checkpoint folder of the backbone, in timm's layout, or hf://owner/name.
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
    pub overlay: OverlayArgs,
    /// Images to see, repetitions counted (`images`).
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// Seed of everything random (`seed`).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Type of the weights that are written.
    #[arg(long, value_enum, default_value = "f32")]
    pub weights: Weights,
    /// Where gradients are computed: cpu or gpu.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Images to train on.
    #[arg(long, default_value = "train", value_name = "NAME")]
    pub split: String,
    /// Images to choose the best weights by.
    #[arg(long, default_value = "calibration", value_name = "NAME")]
    pub held_out_split: String,
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

#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub size: SizeArgs,
    /// In what the backbone multiplies: f32, bf16 or int8.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: Precision,
    /// Data set, or hf://datasets/owner/name.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Images to evaluate on: test, calibration, train or a split of the data set's own [default: test,
    /// else calibration].
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Only the first N images.
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// Corrupt every image first, to see what a shift costs: noise, blur, contrast, brightness or jpeg, -mild or -severe.
    #[arg(long, value_name = "NAME")]
    pub corrupt: Option<Corruption>,
    /// Methods to compare.
    #[arg(long, value_delimiter = ',', default_value = "policy,random,cls-attention", value_name = "NAMES")]
    pub methods: Vec<Method>,
    /// Without a policy: keep ratio of the hand-made methods, as in `bench`. With one: the mildest threshold on record that
    /// costs no more than a hand-made method at this keep ratio.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "RATIOS",
        conflicts_with_all = ["read_out", "max_drop", "max_drift", "confidence", "gmacs"]
    )]
    pub keep: Vec<f64>,
    /// Do not measure images/s.
    #[arg(long)]
    pub no_speed: bool,
    /// Run folder to write a report of these figures into; needs a calibrated policy.
    #[arg(long, value_name = "RUN", requires = "policy")]
    pub report: Option<PathBuf>,
    /// Images a batch.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch: usize,
    #[command(flatten)]
    pub reading: DatasetArgs,
}

#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub size: SizeArgs,
    /// Data set, or hf://datasets/owner/name.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Policy folder, or hf://owner/name, calibrated; without one, the hand-made methods are compared. May be repeated: with
    /// policies of several seeds, means over them are compared.
    #[arg(long, value_name = "FOLDER")]
    pub policy: Vec<PathBuf>,
    /// Another calibrated policy to compare with, by name, as in gumbel=runs/gumbel/policy; may be repeated, also with one
    /// name for several seeds.
    #[arg(long, value_name = "NAME=FOLDER", value_parser = rival)]
    pub rival: Vec<(String, PathBuf)>,
    /// Methods to compare.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "policy,random,cls-attention,evit,ats,similarity,tome,tome-plain",
        value_name = "NAMES"
    )]
    pub methods: Vec<Method>,
    /// Folder that the figures and report.html go to; an interrupted comparison goes on from it.
    #[arg(long, default_value = "runs/compare", value_name = "FOLDER")]
    pub report: PathBuf,
    /// Images to compare on [default: test, else calibration].
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Only the first N of them.
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// Images to sweep the methods' settings on.
    #[arg(long, default_value = "calibration", value_name = "NAME")]
    pub sweep_split: String,
    /// Only the first N of them.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub sweep_images: usize,
    /// Costs to compare at, as shares of the dense MACs.
    #[arg(long, value_delimiter = ',', default_value = "0.9,0.8,0.7,0.6,0.5", value_name = "SHARES")]
    pub costs: Vec<f64>,
    /// Drops to compare at, pp.
    #[arg(long, value_delimiter = ',', default_value = "0.4,1.0", value_name = "PP")]
    pub drops: Vec<f64>,
    /// Leave out the studies of the policy's budgets and of its selection.
    #[arg(long)]
    pub no_studies: bool,
    /// Do not measure images/s.
    #[arg(long)]
    pub no_speed: bool,
    /// Images a batch.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch: usize,
    #[command(flatten)]
    pub reading: DatasetArgs,
}

#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    /// Image files, folders of images, or data sets; - for tar shards on standard input.
    #[arg(required = true, value_name = "IMAGES")]
    pub images: Vec<PathBuf>,
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub size: SizeArgs,
    /// In what the backbone multiplies: f32, bf16 or int8.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: Precision,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Classes to print.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub top_k: usize,
    /// Features in place of classes: one vector an image, or one for each token that is left; --json prints their values.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "top_k")]
    pub features: Option<FeaturesOf>,
    #[command(flatten)]
    pub reading: ImageArgs,
}

#[derive(Debug, clap::Args)]
pub struct VisualizeArgs {
    /// Image files, folders of images, or data sets; - for tar shards on standard input.
    #[arg(required = true, value_name = "IMAGES")]
    pub images: Vec<PathBuf>,
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub size: SizeArgs,
    /// In what the backbone multiplies: f32, bf16 or int8.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: Precision,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Folder that the pictures go to.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    #[command(flatten)]
    pub reading: ImageArgs,
}

#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Run folder, as `train --out` has written it; report.html and plots/ go into it.
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Policy folder, as `train` has written it.
    #[arg(long, value_name = "FOLDER")]
    pub policy: PathBuf,
    /// Checkpoint folder of the backbone that it was trained for, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub size: SizeArgs,
    /// Folder to write; it must be empty or absent.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// The backbone's owner and name on the Hub, for the card [default: those of an hf:// --model].
    #[arg(long, value_name = "OWNER/NAME")]
    pub base_model: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Checkpoint folder, hf://owner/name, or a timm name (random weights), such as deit_small_patch16_224.
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub size: SizeArgs,
    /// In what the backbone multiplies: any of f32, bf16 and int8.
    #[arg(long, value_delimiter = ',', default_value = "f32", value_name = "TYPES")]
    pub dtype: Vec<Precision>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Images to time with: the first of this data set's test images [default: random pixels].
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ImageArgs,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_value = "1,32", value_name = "SIZES", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub batch: Vec<u16>,
    /// Shares of the patch tokens left after each stage; a single one is taken to the power of the stage
    /// [default: 0.7; with a policy, its own read-out].
    #[arg(long, value_delimiter = ',', value_name = "RATIOS")]
    pub keep: Vec<f64>,
    /// 0-based blocks to prune before [default: L/4, L/2, 3L/4 of L].
    #[arg(long, value_delimiter = ',', value_name = "BLOCKS", conflicts_with = "policy")]
    pub stages: Vec<usize>,
    /// Method: policy (without --policy, one with random weights) or a hand-made one, as in `compare`.
    #[arg(long, default_value = "policy", value_name = "NAME")]
    pub method: Method,
    /// Seconds to measure each dtype at each batch size for.
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    pub seconds: f64,
    /// Rounds at least, in which all models take turns.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Say where the time goes, by operation.
    #[arg(long)]
    pub profile: bool,
    /// Compare budgets that differ between the images of a batch with equal ones of the same total.
    #[arg(long)]
    pub ragged: bool,
}

#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Checkpoint folder, hf://owner/name, or a timm name.
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub size: SizeArgs,
    /// Keep ratios a stage to show costs for.
    #[arg(long, value_delimiter = ',', value_name = "RATIOS")]
    pub keep: Vec<f64>,
}
