//! `train`: training of a policy for a frozen backbone, and its calibration.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_measure::calibrate::{CalibrationOptions, allowed, grid};
use vitrim_measure::front::Choice;
use vitrim_measure::model::{Loaded, open_policy};
use vitrim_measure::passes::{BATCH, PassOptions};
use vitrim_measure::progress::{Event, Listener};
use vitrim_measure::requests::{
    BackboneArgs, DataNotes, DatasetArgs, LossArgs, Request, as_text, calibrate_folder, note_opened,
    note_reading,
};
use vitrim_measure::seen::SeenImages;
use vitrim_measure::statistics::Confidence;
use vitrim_prune::Policy;
use vitrim_train::{
    DeviceChoice, Outcome, Run, RunEvent, RunFolder, Source, TrainConfig, UpdateLog, updates_done,
};
use vitrim_vit::Precision;

use super::OverlayArgs;
use crate::error::{Result, VitrimError};
use crate::overlay;
use crate::training::{RunImages, Splits, default_out, describe, open_run, saved, weights};

/// What to train.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct TrainRequest {
    /// Checkpoint folder of the backbone (config.json and model.safetensors, as in timm), or hf://owner/name.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FOLDER", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub model: Option<PathBuf>,
    /// The backbone's input size and classes.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub backbone: BackboneArgs,
    /// Data type of the backbone's arithmetic in rollouts and calibration: f32, bf16 or int8.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().dtype, value_name = "TYPE"))]
    #[serde(serialize_with = "as_text::display")]
    pub dtype: Precision,
    /// Data set: class folders, a flat folder of images, a list of them, Hugging Face parquet files, tar shards, or
    /// hf://datasets/owner/name.
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub data: Option<PathBuf>,
    /// Run folder [default: runs/MODEL, or runs/MODEL-PRESET where --preset is given].
    #[cfg_attr(feature = "cli", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub out: Option<PathBuf>,
    /// Configuration to start from: default, drop or paper; gumbel and dynamicvit are the controls without reinforcement.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().preset, value_name = "NAME"))]
    pub preset: String,
    /// Changes to the preset.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub overlay: OverlayArgs,
    /// Number of updates (`updates`).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub updates: Option<usize>,
    /// Seed of all random numbers (`seed`).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub seed: Option<u64>,
    /// The loss that is allowed.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub loss: LossArgs,
    /// Confidence of the bound on the accuracy loss; 0.5 takes the measured value.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().confidence, value_name = "SHARE"))]
    pub confidence: Confidence,
    /// Device that computes the gradients: cpu or gpu.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().device, value_name = "DEVICE"))]
    #[serde(serialize_with = "as_text::display")]
    pub device: DeviceChoice,
    /// Images to train on.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().split, value_name = "NAME"))]
    pub split: String,
    /// Images to calibrate on.
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().calibration_split, value_name = "NAME")
    )]
    pub calibration_split: String,
    /// Largest number of images to calibrate on.
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().calibration_images, value_name = "N")
    )]
    pub calibration_images: usize,
    /// Leave the policy uncalibrated.
    #[cfg_attr(feature = "cli", arg(long))]
    pub no_calibrate: bool,
    /// How images are read.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub reading: DatasetArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub threads: usize,
}

impl Default for TrainRequest {
    fn default() -> Self {
        TrainRequest {
            model: None,
            backbone: BackboneArgs::default(),
            dtype: Precision::F32,
            data: None,
            out: None,
            preset: "default".to_owned(),
            overlay: OverlayArgs::default(),
            updates: None,
            seed: None,
            loss: LossArgs::default(),
            confidence: Confidence::DEFAULT,
            device: DeviceChoice::Cpu,
            split: "train".to_owned(),
            calibration_split: "calibration".to_owned(),
            calibration_images: 10_000,
            no_calibrate: false,
            reading: DatasetArgs::default(),
            threads: 0,
        }
    }
}

impl Request for TrainRequest {
    const VERB: &'static str = "train";
    const REPEATED: &'static [&'static str] = &["set"];
}

/// The result of training.
pub struct Trained {
    /// The run folder.
    pub folder: PathBuf,
    /// The policy's folder.
    pub policy_folder: PathBuf,
    /// The policy in that folder.
    pub policy: Policy,
    /// Updates done.
    pub updates: usize,
    /// The choice of the calibration; `None` if the policy was left uncalibrated.
    pub choice: Option<Choice>,
    /// What was guessed of the images to train on and those to calibrate on.
    pub notes: DataNotes,
}

impl TrainRequest {
    /// The configuration: preset, file, `--set`, and the flags for single keys; the last value wins. Whether the
    /// allowed loss is a drop or a drift depends on the backbone.
    ///
    /// # Errors
    /// If there is no such preset, or a value is not valid for its key.
    pub fn configuration(&self) -> Result<TrainConfig> {
        let preset = TrainConfig::preset(&self.preset).ok_or_else(|| {
            let presets = TrainConfig::PRESETS.join(", ");
            VitrimError::Setting(format!("--preset {}: no such preset; use one of {presets}", self.preset))
        })?;
        let mut config = overlay::merge(&preset, self.overlay.config.as_deref(), &self.overlay.set)?;
        config.updates = self.updates.unwrap_or(config.updates);
        config.seed = self.seed.unwrap_or(config.seed);
        config.constraint.max_accuracy_loss =
            self.loss.max_drop.or(self.loss.max_drift).unwrap_or(config.constraint.max_accuracy_loss);
        Ok(config)
    }

    /// The run folder of a policy for `model`.
    pub fn out_folder(&self, model: &Path) -> PathBuf {
        self.out.clone().unwrap_or_else(|| default_out(model, &self.preset))
    }

    /// Trains a policy for `loaded` by `config`, and calibrates it. A run that was stopped continues.
    ///
    /// # Errors
    /// [`VitrimError::Interrupted`] if the training was stopped, [`vitrim_measure::MeasureError::Interrupted`] if the
    /// calibration was; or if the parts do not fit each other, or a file cannot be read or written.
    pub fn run(
        &self,
        loaded: &Loaded,
        mut config: TrainConfig,
        listener: &mut Listener<'_>,
    ) -> Result<Trained> {
        let (Some(model), Some(data)) = (&self.model, &self.data) else {
            return Err(VitrimError::Setting("--model and --data are needed to train".into()));
        };
        if let Some(loss) = allowed(&loaded.spec, self.loss.max_drop, self.loss.max_drift)? {
            config.constraint.max_accuracy_loss = loss;
        }
        config
            .check(&loaded.spec)
            .map_err(|reason| VitrimError::Setting(format!("configuration: {reason}")))?;
        let parts = self.reading.open(data, loaded)?;
        let calibration = (!self.no_calibrate).then_some(self.calibration_split.as_str());
        let splits = Splits { train: &self.split, calibration };
        let images = RunImages::open(loaded, &parts, splits, &mut listener.steps("hashing images"))?;
        note_opened(std::iter::once(&images.train).chain(&images.calibration), listener);
        listener.note(&images.describe(self.calibration_images));
        let out = self.out_folder(model);
        let folder = RunFolder::open(&out)?;
        let is_new = updates_done(&out)?.is_none();
        listener.note(&open_run(&folder, &config)?);
        let keep_command = || {
            let command = format!("{}\n", self.command_line());
            vitrim_durable::replace(&out.join(vitrim_report::COMMAND), command.as_bytes())
        };
        if is_new {
            keep_command()?;
        }
        let on_bad_image = self.reading.images.on_bad_image;
        let source = Source {
            dataset: images.train.clone(),
            transform: loaded.transform.clone(),
            workers: self.threads,
            on_bad_image,
        };
        let weights = weights(loaded, &config)?;
        let run = Run {
            id: &loaded.id,
            precision: loaded.model.weights().precision(),
            weights: weights.as_ref(),
            config: &config,
            source: &source,
            device: self.device,
            folder: &folder,
        };
        learn(loaded, &run, listener)?;
        keep_command()?;
        note_reading(&images.train, listener);

        let policy_folder = out.join("policy");
        let (mut policy, mut choice) = (open_policy(&policy_folder, loaded)?, None);
        if let Some(dataset) = &images.calibration {
            let options = CalibrationOptions {
                thresholds: grid(),
                pilot: None,
                max_loss: config.constraint.max_accuracy_loss,
                confidence: self.confidence,
                pass: PassOptions {
                    batch: BATCH,
                    workers: self.threads,
                    skip: 0,
                    images: Some(self.calibration_images),
                    on_bad_image,
                    corruption: None,
                },
                elsewhere: None,
            };
            let held_out = (&*parts.path(), &*self.calibration_split, dataset);
            let (calibrated, chosen) =
                calibrate_folder(loaded, &policy_folder, held_out, &options, listener)?;
            (policy, choice) = (calibrated, Some(chosen));
        }
        let parts: Vec<_> = std::iter::once(&images.train).chain(&images.calibration).collect();
        let notes = DataNotes::of(parts);
        Ok(Trained { folder: out, policy_folder, policy, updates: config.updates, choice, notes })
    }
}

/// Runs the remaining updates of `run`, and writes the record of the images that its policy has seen.
///
/// # Errors
/// [`VitrimError::Interrupted`] if it was stopped; if an image cannot be read, or a file cannot be written.
pub fn learn(loaded: &Loaded, run: &Run<'_>, listener: &mut Listener<'_>) -> Result<()> {
    let (stop, updates) = (listener.stop, run.config.updates);
    let mut tell = |event: RunEvent<'_, UpdateLog>| match event {
        RunEvent::Preparing { what, done, all } => (listener.tell)(Event::Step { what, done, all }),
        RunEvent::Entry(log, all) => (listener.tell)(Event::Entry {
            unit: "update",
            done: log.update,
            all,
            line: &describe(log),
            figures: &serde_json::to_value(log).expect("figures are plain data"),
            evaluated: false,
        }),
    };
    match vitrim_train::train(&loaded.model, run, stop, &mut tell)? {
        Outcome::Interrupted => Err(VitrimError::Interrupted(saved(run.folder.path(), updates)?)),
        Outcome::Finished => {
            record_training(&run.folder.path().join("policy"), None, &run.source.dataset, listener)
        }
    }
}

/// Records that the policy in `folder` was trained on the images of `dataset`, in addition to the images of `before`,
/// the record of the policy from which it was made.
pub(super) fn record_training(
    folder: &Path,
    before: Option<SeenImages>,
    dataset: &vitrim_data::Dataset,
    listener: &mut Listener<'_>,
) -> Result<()> {
    let hashes = dataset.content_hash_list(&mut listener.steps("hashing images"))?;
    Ok(before.unwrap_or_default().trained_on(&hashes).write(folder)?)
}
