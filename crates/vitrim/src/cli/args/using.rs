//! Arguments of the commands that use a policy, measure it, and show what it does.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::ValueEnum;
use vitrim_data::Corruption;
use vitrim_measure::compare::Study;
use vitrim_measure::model::features::FeatureKind;
use vitrim_prune::Method;
use vitrim_vit::Precision;

use super::{KeepArgs, PolicyArgs, SizeArgs};
use crate::cli::images::{DatasetArgs, ImageArgs};

fn rival(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("give NAME=FOLDER, as in gumbel=runs/gumbel/policy")?;
    Ok((name.to_owned(), PathBuf::from(folder)))
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
    /// In what the backbone multiplies, dense and pruned: f32, bf16 or int8.
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: Precision,
    /// Data set, or hf://datasets/owner/name.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Policy folder, or hf://owner/name, calibrated; without one, the hand-made methods are compared. May be repeated: with
    /// policies of several seeds, means over them are compared.
    #[arg(long, value_name = "FOLDER")]
    pub policy: Vec<PathBuf>,
    /// Another policy to compare with, by name, as in gumbel=runs/gumbel/policy: calibrated, or one that samples; may be
    /// repeated, also with one name for several seeds.
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
    /// Measure only the N settings on either side of each of these costs and drops, not whole fronts.
    #[arg(long, value_name = "N")]
    pub near: Option<NonZeroUsize>,
    /// What to study of the policies.
    #[arg(long, value_delimiter = ',', default_values_t = Study::ALL, value_name = "STUDIES")]
    pub studies: Vec<Study>,
    /// Leave the studies out.
    #[arg(long, conflicts_with = "studies")]
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
    /// Batches in flight at once, among which the threads are shared out: with one a thread, more images a second at
    /// batch 1, each after a longer wait.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub streams: u16,
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
