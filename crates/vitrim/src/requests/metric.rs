//! `train-metric`: training of a metric for merging.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_measure::model::Loaded;
use vitrim_measure::progress::{Event, Listener};
use vitrim_measure::requests::{DataNotes, DatasetArgs, Request, as_text, note_opened, note_reading};
use vitrim_prune::AnyPolicy;
use vitrim_ranks::Ranks;
use vitrim_train::metric::{MetricConfig, MetricTraining, steps_done, train_metric};
use vitrim_train::{DeviceChoice, Outcome, RunFolder};
use vitrim_vit::Precision;

use super::backbone::OverlayArgs;
use super::train::record_training;
use crate::error::{Result, VitrimError};
use crate::overlay;
use crate::training::{
    ALIKE, RunImages, Splits, describe_metric, facts_of_backbone, facts_of_run, open_run_of_steps, tensors_of,
};

/// The backbone whose tokens are to be compared, and the images to learn from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct TrainMetricRequest {
    /// Checkpoint folder of the backbone, in timm's or transformers' layout, or hf://owner/name.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FOLDER", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub model: Option<PathBuf>,
    /// Data set; labels are not used, but have to be the backbone's classes if there are any.
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub data: Option<PathBuf>,
    /// Part of the data set to train on.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().split, value_name = "NAME"))]
    pub split: String,
    /// Run folder; the policy goes to its `policy/`.
    #[cfg_attr(feature = "cli", arg(long, default_value_os_t = Self::default().out, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// Images to train on, repetitions counted (`images`).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub images: Option<usize>,
    /// Seed of all random numbers (`seed`).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub seed: Option<u64>,
    /// Device that computes the gradients: cpu or gpu.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().device, value_name = "DEVICE"))]
    #[serde(serialize_with = "as_text::display")]
    pub device: DeviceChoice,
    /// Changes to the default configuration.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub overlay: OverlayArgs,
    /// How images are read.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub reading: DatasetArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub threads: usize,
}

impl Default for TrainMetricRequest {
    fn default() -> Self {
        TrainMetricRequest {
            model: None,
            data: None,
            split: "train".to_owned(),
            out: PathBuf::from("runs/metric"),
            images: None,
            seed: None,
            device: DeviceChoice::Cpu,
            overlay: OverlayArgs::default(),
            reading: DatasetArgs::default(),
            threads: 0,
        }
    }
}

impl Request for TrainMetricRequest {
    const VERB: &'static str = "train-metric";
    const REPEATED: &'static [&'static str] = &["set"];
}

/// The result of a metric's training.
#[derive(Serialize)]
pub struct TrainedMetric {
    /// The run folder.
    pub folder: PathBuf,
    /// The folder of the policy.
    pub policy: PathBuf,
    /// What the policy is set to: `cost=1` keeps every token, until it is calibrated. Empty on other ranks than the first.
    pub read_out: String,
    /// What was guessed of the images.
    #[serde(flatten)]
    pub notes: DataNotes,
}

impl TrainMetricRequest {
    /// The configuration: the defaults, file, `--set`, and the flags for single keys; the last value wins.
    ///
    /// # Errors
    /// If a value is not valid for its key.
    pub fn configuration(&self) -> Result<MetricConfig> {
        let overlay = &self.overlay;
        let mut config = overlay::merge(&MetricConfig::default(), overlay.config.as_deref(), &overlay.set)?;
        config.images = self.images.unwrap_or(config.images);
        config.seed = self.seed.unwrap_or(config.seed);
        Ok(config)
    }

    /// Trains a metric for `loaded` by `config`, as one of `ranks`, of which the first alone writes files. A run that was
    /// stopped continues.
    ///
    /// # Errors
    /// [`VitrimError::Interrupted`] if it was stopped; or if the parts do not fit each other, or a file cannot be read or
    /// written.
    pub fn run(
        &self,
        loaded: &Loaded,
        config: &MetricConfig,
        ranks: &Ranks,
        listener: &mut Listener<'_>,
    ) -> Result<TrainedMetric> {
        let Some(data) = &self.data else {
            return Err(VitrimError::Setting("--model and --data are needed to train".into()));
        };
        config.check(&loaded.spec)?;
        let precision = loaded.model.weights().precision();
        if precision != Precision::F32 {
            return Err(VitrimError::Setting(format!(
                "a metric is learned in f32, and the model is loaded in {precision}; load it in f32"
            )));
        }
        let tensors = tensors_of(loaded)?;
        let parts = self.reading.open(data, loaded)?;
        let splits = Splits { train: &self.split, calibration: None };
        let found = RunImages::open(loaded, &parts, splits, &mut listener.steps("hashing images"))?;
        note_opened([&found.train], listener);
        let (out, steps, toml) = (&self.out, config.steps(), overlay::to_toml(config)?);
        let mut facts = facts_of_backbone(loaded);
        facts.extend(facts_of_run(&found.train, None, &toml));
        ranks.agree(&facts, ALIKE)?;
        let folder = RunFolder::among(ranks, out)?;
        if let Some(line) = open_run_of_steps(&folder, &toml, steps, steps_done, ranks)? {
            listener.note(&line);
        }
        listener.note(&format!(
            "{} images to train on ({} left out, which calibration or test also has)",
            found.train.len(),
            found.removed
        ));
        let policy = out.join("policy");
        // A policy that was interrupted has seen them, too.
        if ranks.is_first() && !policy.join("policy.json").exists() {
            record_training(&policy, None, [&found.train], listener)?;
        }
        let run = MetricTraining {
            config,
            backbone: &loaded.model,
            tensors: &tensors,
            id: &loaded.id,
            train: &found.train,
            transform: &loaded.transform,
            workers: self.threads,
            on_bad_image: self.reading.images.on_bad_image,
            device: self.device,
            ranks,
            folder: &folder,
        };
        let outcome = train_metric(&run, listener.stop, &mut |log, all| {
            (listener.tell)(Event::Entry {
                unit: "step",
                done: log.step,
                all,
                line: &describe_metric(log),
                figures: &serde_json::to_value(log).expect("figures are plain data"),
                evaluated: false,
            });
        })?;
        if outcome == Outcome::Interrupted {
            return Err(VitrimError::Interrupted(saved(out, steps, ranks)?));
        }
        note_reading(&found.train, listener);
        let read_out =
            if ranks.is_first() { AnyPolicy::load(&policy)?.dial().to_string() } else { String::new() };
        Ok(TrainedMetric { folder: out.clone(), policy, read_out, notes: DataNotes::of([&found.train]) })
    }
}

/// A line that says what a run of `steps` in `out` that was stopped has saved.
fn saved(out: &Path, steps: usize, ranks: &Ranks) -> Result<String> {
    let done = if ranks.is_first() { steps_done(out)? } else { None }.unwrap_or(0);
    Ok(format!("step {done} of {steps} is saved in {}", out.display()))
}
