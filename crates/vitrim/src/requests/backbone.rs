//! `finetune` and `pretrain`: training of the backbone.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_hub::{Kind, local};
use vitrim_measure::model::{Loaded, open_checkpoint};
use vitrim_measure::progress::{Event, Listener};
use vitrim_measure::requests::{
    DataNotes, DatasetArgs, ImageArgs, KeepArgs, PolicyArgs, Request, as_text, note_opened, note_reading,
};
use vitrim_measure::seen::SeenImages;
use vitrim_prune::{AnyPolicy, Policy};
use vitrim_ranks::Ranks;
use vitrim_train::finetune::{FinetuneConfig, Finetuning, HeldOut, finetune, steps_done};
use vitrim_train::pretrain::{PretrainConfig, WeightType};
use vitrim_train::{DeviceChoice, Outcome, RunFolder, one_size};

use super::train::record_training;
use crate::error::{Result, VitrimError};
use crate::overlay;
use crate::training::{
    ALIKE, RunImages, Splits, describe_finetuning, facts_of_backbone, facts_of_run, open_run_of_steps,
};

/// Changes to a preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct OverlayArgs {
    /// TOML file whose values override the preset.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub config: Option<PathBuf>,
    /// Value that overrides both, as in seed=7 or one.within.another=0.1; may be repeated.
    #[cfg_attr(feature = "cli", arg(long, value_name = "KEY=VALUE"))]
    pub set: Vec<String>,
    /// Print the resulting configuration as TOML, and stop.
    #[cfg_attr(feature = "cli", arg(long))]
    pub print_config: bool,
}

/// How a backbone is trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct BackboneRunArgs {
    /// Changes to the preset.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub overlay: OverlayArgs,
    /// Images to train on, repetitions counted (`images`).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub images: Option<usize>,
    /// Seed of all random numbers (`seed`).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub seed: Option<u64>,
    /// Type of the written weights: f32 or bf16.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().weights, value_name = "TYPE"))]
    #[serde(serialize_with = "as_text::display")]
    pub weights: WeightType,
    /// Device that computes the gradients: cpu or gpu.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().device, value_name = "DEVICE"))]
    #[serde(serialize_with = "as_text::display")]
    pub device: DeviceChoice,
    /// Images to train on.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().split, value_name = "NAME"))]
    pub split: String,
    /// Images for choosing the best weights.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().held_out_split, value_name = "NAME"))]
    pub held_out_split: String,
}

impl Default for BackboneRunArgs {
    fn default() -> Self {
        BackboneRunArgs {
            overlay: OverlayArgs::default(),
            images: None,
            seed: None,
            weights: WeightType::F32,
            device: DeviceChoice::Cpu,
            split: "train".to_owned(),
            held_out_split: "calibration".to_owned(),
        }
    }
}

/// The backbone to train from scratch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct PretrainRequest {
    /// Labelled images: `scenes`, class folders, Hugging Face parquet files, or hf://datasets/owner/name.
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub data: Option<PathBuf>,
    /// Configuration to start from: default (photographs) or scenes.
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().preset, value_name = "NAME"))]
    pub preset: String,
    /// Checkpoint folder, or hf://owner/name, with the initial weights [default: random ones].
    #[cfg_attr(feature = "cli", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub init: Option<PathBuf>,
    /// Run folder; the backbone goes to its `model/`.
    #[cfg_attr(feature = "cli", arg(long, default_value_os_t = Self::default().out, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// How to train.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub run: BackboneRunArgs,
    /// How images are read.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub reading: ImageArgs,
    /// The command line's global option: threads; 0 for one per core.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub threads: usize,
}

impl Default for PretrainRequest {
    fn default() -> Self {
        PretrainRequest {
            data: None,
            preset: "default".to_owned(),
            init: None,
            out: PathBuf::from("runs/pretrain"),
            run: BackboneRunArgs::default(),
            reading: ImageArgs::default(),
            threads: 0,
        }
    }
}

impl Request for PretrainRequest {
    const VERB: &'static str = "pretrain";
    const REPEATED: &'static [&'static str] = &["set"];
}

impl PretrainRequest {
    /// The configuration: preset, file, `--set`, and the flags for single keys; the last value wins.
    ///
    /// # Errors
    /// If there is no such preset, or a value is not valid for its key.
    pub fn configuration(&self) -> Result<PretrainConfig> {
        let preset = PretrainConfig::preset(&self.preset).ok_or_else(|| {
            VitrimError::Setting(format!("--preset {}: no such preset; use default or scenes", self.preset))
        })?;
        let overlay = &self.run.overlay;
        let mut config = overlay::merge(&preset, overlay.config.as_deref(), &overlay.set)?;
        config.images = self.run.images.unwrap_or(config.images);
        config.seed = self.run.seed.unwrap_or(config.seed);
        Ok(config)
    }
}

/// The backbone to fine-tune, and its policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct FinetuneRequest {
    /// Checkpoint folder of the backbone, in timm's or transformers' layout, which the result keeps, or hf://owner/name.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FOLDER", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub model: Option<PathBuf>,
    /// The policy.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub policy: PolicyArgs,
    /// The policy's cost.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub keep: KeepArgs,
    /// Without a policy: fine-tune the dense model in the same way, as a control.
    #[cfg_attr(feature = "cli", arg(long, conflicts_with = "policy"))]
    pub dense: bool,
    /// Data set; labels are used if `label_weight` is above 0, and to report top-1.
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", required_unless_present = "print_config"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub data: Option<PathBuf>,
    /// Run folder; the backbone goes to its `model/`, and the policy, for it, to `policy/`.
    #[cfg_attr(feature = "cli", arg(long, default_value_os_t = Self::default().out, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// How to train.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub run: BackboneRunArgs,
    /// How images are read.
    #[cfg_attr(feature = "cli", command(flatten))]
    #[serde(flatten)]
    pub reading: DatasetArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub threads: usize,
}

impl Default for FinetuneRequest {
    fn default() -> Self {
        FinetuneRequest {
            model: None,
            policy: PolicyArgs::default(),
            keep: KeepArgs::default(),
            dense: false,
            data: None,
            out: PathBuf::from("runs/finetune"),
            run: BackboneRunArgs::default(),
            reading: DatasetArgs::default(),
            threads: 0,
        }
    }
}

impl Request for FinetuneRequest {
    const VERB: &'static str = "finetune";
    const REPEATED: &'static [&'static str] = &["set"];
}

/// The result of fine-tuning.
#[derive(Serialize)]
pub struct Finetuned {
    /// The run folder.
    pub folder: PathBuf,
    /// The folder of the backbone.
    pub model: PathBuf,
    /// The folder of the policy for that backbone; `None` for the dense control.
    pub policy: Option<PathBuf>,
    /// Figures of the written weights on held-out images.
    pub held_out: Option<HeldOut>,
    /// What was guessed of the images to train on and the held-out ones.
    #[serde(flatten)]
    pub notes: DataNotes,
}

impl FinetuneRequest {
    /// The configuration: the defaults, file, `--set`, and the flags for single keys; the last value wins.
    ///
    /// # Errors
    /// If a value is not valid for its key.
    pub fn configuration(&self) -> Result<FinetuneConfig> {
        let overlay = &self.run.overlay;
        let mut config = overlay::merge(&FinetuneConfig::default(), overlay.config.as_deref(), &overlay.set)?;
        config.images = self.run.images.unwrap_or(config.images);
        config.seed = self.run.seed.unwrap_or(config.seed);
        Ok(config)
    }

    /// Fine-tunes `loaded`, which is open at the checkpoint's own size, under `policy` by `config`; without a policy,
    /// trains the dense control, as one of `ranks`, of which the first alone writes files. A run that was stopped continues.
    ///
    /// # Errors
    /// [`VitrimError::Interrupted`] if it was stopped; or if the policy is not a learned one, the parts do not fit each
    /// other, or a file cannot be read or written.
    pub fn run(
        &self,
        loaded: &Loaded,
        policy: Option<&AnyPolicy>,
        config: &FinetuneConfig,
        ranks: &Ranks,
        listener: &mut Listener<'_>,
    ) -> Result<Finetuned> {
        let Some(data) = &self.data else {
            return Err(VitrimError::Setting("--model and --data are needed to train".into()));
        };
        let folder = self.policy.policy.as_deref().unwrap_or(Path::new("policy"));
        let policy = policy.map(|policy| policy.learned(folder)).transpose()?;
        one_size(&loaded.spec)?;
        if let Some(classes) = &loaded.text_classes {
            return Err(VitrimError::Setting(format!(
                "{}: fine-tuning trains the image tower, not a classifier of texts; load it without classes",
                classes.path.display()
            )));
        }
        let checkpoint = open_checkpoint(Path::new(&loaded.origin), None)?;
        if checkpoint.spec.img_size != loaded.spec.img_size {
            return Err(VitrimError::Setting(format!(
                "{}: fine-tuned weights are of the checkpoint's own size; load it without img_size",
                loaded.origin
            )));
        }
        let parts = self.reading.open(data, loaded)?;
        let splits = Splits { train: &self.run.split, calibration: Some(&self.run.held_out_split) };
        let found = RunImages::open(loaded, &parts, splits, &mut listener.steps("hashing images"))?;
        let held_out = found.calibration.as_ref().expect("asked for");
        note_opened([&found.train, held_out], listener);
        let (out, steps, toml) = (&self.out, config.steps(), overlay::to_toml(config)?);
        let mut facts = facts_of_backbone(loaded);
        facts.extend(facts_of_run(&found.train, Some(held_out), &toml));
        facts.push(("policy", policy.map_or("none".to_owned(), Policy::identity)));
        ranks.agree(&facts, ALIKE)?;
        let folder = RunFolder::among(ranks, out)?;
        if let Some(line) = open_run_of_steps(&folder, &toml, steps, steps_done, ranks)? {
            listener.note(&line);
        }
        listener.note(&found.describe_held_out(config.held_out_images));
        let run = Finetuning {
            config,
            checkpoint: &checkpoint,
            policy,
            train: &found.train,
            held_out,
            transform: &loaded.transform,
            workers: self.threads,
            on_bad_image: self.reading.images.on_bad_image,
            device: self.run.device,
            ranks,
            weight_type: self.run.weights,
            folder: &folder,
        };
        let (stop, mut last) = (listener.stop, None);
        let (outcome, best) = finetune(&run, stop, &mut |log, all| {
            last = log.held_out.or(last);
            (listener.tell)(Event::Entry {
                unit: "step",
                done: log.step,
                all,
                line: &describe_finetuning(log, last),
                figures: &serde_json::to_value(log).expect("figures are plain data"),
                evaluated: log.held_out.is_some(),
            });
        })?;
        if outcome == Outcome::Interrupted {
            let done = if ranks.is_first() { steps_done(out)? } else { None }.unwrap_or(0);
            let saved = format!("step {done} of {steps} is saved in {}", out.display());
            return Err(VitrimError::Interrupted(saved));
        }
        note_reading(&found.train, listener);
        let policy_folder = policy.map(|_| out.join("policy"));
        if let (Some(folder), true) = (&policy_folder, ranks.is_first()) {
            let before = match &self.policy.policy {
                Some(before) => Some(SeenImages::read(&local(before, Kind::Policy)?)?),
                None => None,
            };
            record_training(folder, before, [&found.train], listener)?;
        }
        Ok(Finetuned {
            folder: out.clone(),
            model: out.join("model"),
            policy: policy_folder,
            held_out: best,
            notes: DataNotes::of([&found.train, held_out]),
        })
    }
}
