//! The command line's grammar: the commands, each with its request.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use vitrim::requests::{DemoRequest, FinetuneRequest, PretrainRequest, TrainMetricRequest, TrainRequest};
use vitrim_measure::requests::{
    BackboneArgs, BenchRequest, CalibrateRequest, CompareRequest, EmbedRequest, EvalRequest, PredictRequest,
    VisualizeRequest,
};
use vitrim_serve::Settings;

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
    /// Threads for computing, and for decoding; 0 for one per core.
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
    /// Train, calibrate and measure a policy on generated images, in one to five minutes.
    Demo(DemoRequest),
    /// Train a policy for a backbone, and calibrate it.
    Train(TrainRequest),
    /// Learn by gradients which tokens are alike, and merge by it (DTEM): a rival of `train`.
    TrainMetric(TrainMetricRequest),
    /// Train a backbone from scratch.
    Pretrain(PretrainRequest),
    /// Fine-tune a backbone under a policy, to recover accuracy.
    Finetune(FinetuneRequest),
    /// Choose a policy's threshold so that the loss of accuracy stays within a limit.
    Calibrate(CalibrateRequest),
    /// Compare a policy with the dense model and the hand-made methods.
    #[command(visible_alias = "evaluate")]
    Eval(EvalRequest),
    /// Compare whole fronts of methods, and methods at the same cost and the same drop.
    Compare(CompareRequest),
    /// Classify images, or give their features.
    Predict(PredictRequest),
    /// Write features and classes of a whole data set as parquet files; several processes can share the work.
    Embed(Box<EmbedRequest>),
    /// Draw which patches of images are kept.
    Visualize(VisualizeRequest),
    /// Lay out a run as a page with its figures.
    Report(ReportArgs),
    /// Write a policy and its model card as a folder to upload to the Hugging Face Hub.
    Export(ExportArgs),
    /// Measure the speed of a backbone, dense and pruned.
    Bench(BenchRequest),
    /// Show a backbone's geometry and the savings of pruning.
    Info(InfoArgs),
    /// Serve models over REST and gRPC.
    Serve(Box<ServeArgs>),
}

impl Args {
    /// Passes the command line's number of threads to the request.
    #[must_use]
    pub fn with_threads(mut self) -> Self {
        let threads = self.global.threads;
        match &mut self.command {
            Command::Demo(request) => request.threads = threads,
            Command::Train(request) => request.threads = threads,
            Command::TrainMetric(request) => request.threads = threads,
            Command::Pretrain(request) => request.threads = threads,
            Command::Finetune(request) => request.threads = threads,
            Command::Calibrate(request) => request.threads = threads,
            Command::Eval(request) => request.threads = threads,
            Command::Compare(request) => request.threads = threads,
            Command::Bench(request) => request.threads = threads,
            Command::Embed(request) => request.threads = threads,
            Command::Predict(_)
            | Command::Visualize(_)
            | Command::Report(_)
            | Command::Export(_)
            | Command::Info(_)
            | Command::Serve(_) => {}
        }
        self
    }
}

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// TOML file with any of the settings below, by the names of their flags; flags and variables win.
    #[arg(long, env = "VITRIM_SERVE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Run folder that `train --out` has written; report.html and plots/ go into it.
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Policy folder that `train` has written.
    #[arg(long, value_name = "FOLDER")]
    pub policy: PathBuf,
    /// Checkpoint folder of the backbone for which the policy was trained, or hf://owner/name.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub backbone: BackboneArgs,
    /// Folder to write; it must be empty or absent.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// The backbone's owner and name on the Hub, for the card [default: those of an hf:// --model].
    #[arg(long, value_name = "OWNER/NAME")]
    pub base_model: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Checkpoint folder, hf://owner/name, or a timm name.
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub backbone: BackboneArgs,
    /// Keep ratios per stage to show costs for.
    #[arg(long, value_delimiter = ',', value_name = "RATIOS")]
    pub keep: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use vitrim::requests::OverlayArgs;
    use vitrim_data::{LabelOrder, OnBadImage};
    use vitrim_measure::model::features::FeatureKind;
    use vitrim_measure::requests::{Answers, KeepArgs, LossArgs, PolicyArgs, Request};
    use vitrim_measure::statistics::Confidence;
    use vitrim_prune::Method;
    use vitrim_vit::Precision;

    use super::*;

    /// The command that a shell and clap read from a line.
    fn parsed(line: &str) -> Command {
        let words = shlex::split(line).unwrap_or_else(|| panic!("no shell reads {line}"));
        let args = Args::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}\n{error}"));
        args.with_threads().command
    }

    /// Checks that the command line of a request is parsed back to it, with the defaults and with the given values.
    macro_rules! round_trip {
        ($verb:ident, $request:expr) => {{
            let request = $request;
            let line = request.command_line();
            let Command::$verb(back) = parsed(&line) else { panic!("another verb: {line}") };
            assert_eq!(back, request, "{line}");
            line
        }};
    }

    #[test]
    fn every_request_comes_back_from_its_command_line() {
        let awkward = || PathBuf::from("it's a \"folder\" of $HOME; rm -rf *");
        let policy = PolicyArgs {
            policy: Some(awkward()),
            max_drop: Some(-0.25),
            confidence: Some(Confidence::new(0.75).unwrap()),
            ..PolicyArgs::default()
        };
        let classes = Some(PathBuf::from("text embeddings.npz"));
        let backbone = BackboneArgs { img_size: Some([224, 196]), classes };
        let (model, data) = (PathBuf::from("model"), PathBuf::from("data"));
        let plain = EvalRequest { model: model.clone(), data: data.clone(), ..EvalRequest::default() };
        assert_eq!(round_trip!(Eval, plain.clone()), "vitrim eval --model model --data data");
        let mut full = EvalRequest {
            backbone: backbone.clone(),
            dtype: Precision::Bf16,
            policy: policy.clone(),
            split: Some("-odd".into()),
            images: Some(7),
            corrupt: Some("blur-mild".parse().unwrap()),
            methods: vec!["tome".parse().unwrap(), Method::Policy],
            speed_seconds: 0.5,
            batch: 8,
            threads: 3,
            report: Some(PathBuf::from("run é")),
            ..plain.clone()
        };
        full.reading.images.on_bad_image = OnBadImage::Skip;
        full.reading.images.exif = true;
        full.reading.label_map = Some(awkward());
        let line = round_trip!(Eval, full);
        for flag in
            ["--img-size 224x196", "--methods tome,policy", "--batch 8", "--dtype bf16", "--threads 3"]
        {
            assert!(line.contains(flag), "no {flag} in {line}");
        }
        let mut other = EvalRequest { no_speed: true, keep: vec![0.7, 0.5], ..plain };
        other.reading.label_order = Some(LabelOrder::Number);
        round_trip!(Eval, other);

        let plain = EmbedRequest { model: model.clone(), data: data.clone(), ..EmbedRequest::default() };
        let full = EmbedRequest {
            out: awkward(),
            shard: Some("3/16".parse().unwrap()),
            answer: Some(Answers::Classes),
            features: FeatureKind::Embedding,
            policy: policy.clone(),
            split: Some("test".into()),
            part: 100,
            ..plain
        };
        round_trip!(Embed, Box::new(full));

        let plain = CompareRequest { model: model.clone(), data: data.clone(), ..CompareRequest::default() };
        round_trip!(Compare, plain.clone());
        let full = CompareRequest {
            backbone: backbone.clone(),
            dtype: Precision::Int8,
            policy: vec![awkward(), PathBuf::from("b,c")],
            rival: vec![("gumbel".into(), awkward()), ("gumbel".into(), PathBuf::from("x=y"))],
            methods: vec!["random".parse().unwrap()],
            split: Some("test".into()),
            costs: vec![1.0, 0.25],
            drops: vec![2.0],
            near: std::num::NonZeroUsize::new(2),
            no_studies: true,
            no_speed: true,
            report: awkward(),
            ..plain
        };
        round_trip!(Compare, full);

        let plain = CalibrateRequest {
            model: model.clone(),
            data: data.clone(),
            policy: awkward(),
            ..CalibrateRequest::default()
        };
        round_trip!(Calibrate, plain.clone());
        let loss = LossArgs { max_drop: None, max_drift: Some(2.0) };
        let full = CalibrateRequest {
            loss,
            out: Some(awkward()),
            calibration_images: 5,
            split: "val".into(),
            backbone,
            ..plain
        };
        round_trip!(Calibrate, full);

        let bench = BenchRequest { model: "deit_small_patch16_224".into(), ..BenchRequest::default() };
        round_trip!(Bench, bench.clone());
        let full = BenchRequest {
            dtype: vec![Precision::F32, Precision::Int8],
            batch: vec![4],
            keep: vec![0.5],
            stages: vec![1, 2],
            method: "evit".parse().unwrap(),
            seconds: 0.5,
            streams: 2,
            profile: true,
            ragged: true,
            data: Some(awkward()),
            ..bench
        };
        round_trip!(Bench, full);

        let images = vec![PathBuf::from("-"), awkward(), PathBuf::from("b.jpg")];
        let predict = PredictRequest { images, model: model.clone(), ..PredictRequest::default() };
        round_trip!(Predict, PredictRequest { policy, top_k: 2, ..predict.clone() });
        let features = Some(vitrim_measure::model::features::FeatureKind::Tokens);
        round_trip!(Predict, PredictRequest { features, block: Some(-2), ..predict.clone() });
        let drawn = VisualizeRequest {
            images: predict.images,
            model: model.clone(),
            policy: PolicyArgs { policy: Some(awkward()), ..PolicyArgs::default() },
            keep: KeepArgs { keep: Some(0.7) },
            out: awkward(),
            ..VisualizeRequest::default()
        };
        round_trip!(Visualize, drawn);
    }

    #[test]
    fn requests_to_train_come_back_from_their_command_lines() {
        let (model, data) = (Some(PathBuf::from("my model")), Some(PathBuf::from("data")));
        let mut train = TrainRequest { model: model.clone(), data: data.clone(), ..TrainRequest::default() };
        assert_eq!(round_trip!(Train, train.clone()), "vitrim train --model 'my model' --data data");
        train.preset = "paper".into();
        train.overlay.set = vec!["critic.hidden=[8, 4]".into(), "seed=\"x\"".into()];
        train.overlay.config = Some(PathBuf::from("a b.toml"));
        (train.updates, train.seed, train.no_calibrate) = (Some(3), Some(9), true);
        train.loss.max_drop = Some(1.0);
        train.threads = 2;
        train.from = Some(PathBuf::from("universal"));
        round_trip!(Train, train);
        let with = vec![(PathBuf::from("a b"), PathBuf::from("scenes")), ("hf://a/b".into(), "c=d".into())];
        let line = round_trip!(Train, TrainRequest { with, ..TrainRequest::default() });
        assert_eq!(line.matches("--with").count(), 2, "{line}");
        let overlay = OverlayArgs { set: vec!["parts=2".into()], ..OverlayArgs::default() };
        let metric =
            TrainMetricRequest { model: model.clone(), data: data.clone(), overlay, ..Default::default() };
        round_trip!(TrainMetric, TrainMetricRequest { images: Some(24), seed: Some(1), ..metric });
        let mut tune =
            FinetuneRequest { model, data: data.clone(), dense: true, ..FinetuneRequest::default() };
        round_trip!(Finetune, tune.clone());
        tune.run.weights = "bf16".parse().unwrap();
        tune.run.overlay.set = vec!["batch=8".into()];
        tune.run.images = Some(24);
        round_trip!(Finetune, tune);
        round_trip!(
            Pretrain,
            PretrainRequest { data, preset: "scenes".into(), ..PretrainRequest::default() }
        );
        round_trip!(Demo, DemoRequest { quick: true, max_drop: 1.0, seed: 4, ..DemoRequest::default() });
    }

    #[test]
    fn the_grammar_has_no_contradiction() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
