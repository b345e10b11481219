//! `train`: training of a policy for a frozen backbone, and its calibration.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use vitrim_data::OnBadImage;
use vitrim_hub::{Kind, local};
use vitrim_measure::MeasureError;
use vitrim_measure::calibrate::{CalibrationOptions, allowed, grid};
use vitrim_measure::front::Choice;
use vitrim_measure::model::{Loaded, named_method, open_policy};
use vitrim_measure::passes::{BATCH, PassOptions};
use vitrim_measure::progress::{Event, Listener};
use vitrim_measure::requests::{
    BackboneArgs, DataNotes, DatasetArgs, LossArgs, Request, as_text, calibrate_folder, note_opened,
    note_reading,
};
use vitrim_measure::seen::SeenImages;
use vitrim_measure::statistics::Confidence;
use vitrim_prune::policy::{Universal, blocks_at};
use vitrim_prune::{AnyPolicy, Policy};
use vitrim_ranks::Ranks;
use vitrim_train::{
    Aim, DeviceChoice, Ground, Outcome, Run, RunEvent, RunFolder, Source, Start, TrainConfig, UpdateLog,
    updates_done,
};
use vitrim_vit::{CpuBackbone, Precision};

use super::OverlayArgs;
use crate::error::{Result, VitrimError};
use crate::overlay;
use crate::shared_passes::SharedPasses;
use crate::training::{
    ALIKE, Fact, RunImages, Splits, default_out, describe, facts_of_backbone, facts_of_run, name_of,
    open_run, saved, weights,
};

/// What to train.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct TrainRequest {
    /// Checkpoint folder of the backbone (config.json and model.safetensors, as in timm), or hf://owner/name.
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "FOLDER", required_unless_present_any = ["print_config", "with"])
    )]
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
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "PATH", required_unless_present_any = ["print_config", "with"])
    )]
    #[serde(serialize_with = "as_text::path_option")]
    pub data: Option<PathBuf>,
    /// A backbone and its data set, in place of --model and --data: trains one policy for every backbone, on all that are
    /// given; may be repeated, and the updates play them by turns.
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "MODEL=DATA", value_parser = parse_with, conflicts_with_all = ["model", "data"])
    )]
    #[serde(serialize_with = "pairs")]
    pub with: Vec<(PathBuf, PathBuf)>,
    /// Policy to start from: `universal`, or a folder or hf:// reference with a policy of this backbone or of every one.
    #[cfg_attr(feature = "cli", arg(long, value_name = "POLICY"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub from: Option<PathBuf>,
    /// Run folder [default: runs/MODEL, or runs/MODEL-PRESET where --preset is given; with --with, runs/universal].
    #[cfg_attr(feature = "cli", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub out: Option<PathBuf>,
    /// Configuration to start from: default, universal (the default with --with), drop or paper; gumbel and dynamicvit are
    /// the controls without reinforcement.
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
            with: Vec::new(),
            from: None,
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
    const REPEATED: &'static [&'static str] = &["set", "with"];
}

fn pairs<S: Serializer>(pairs: &[(PathBuf, PathBuf)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer
        .collect_seq(pairs.iter().map(|(model, data)| format!("{}={}", model.display(), data.display())))
}

#[cfg(feature = "cli")]
fn parse_with(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (model, data) = text.split_once('=').ok_or("give MODEL=DATA, as in my/deit=my/images")?;
    Ok((PathBuf::from(model), PathBuf::from(data)))
}

/// The result of training.
pub struct Trained {
    /// The run folder.
    pub folder: PathBuf,
    /// The policy's folder.
    pub policy_folder: PathBuf,
    /// The policy in that folder.
    pub policy: AnyPolicy,
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
        let preset = TrainConfig::preset(self.preset()).ok_or_else(|| {
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

    /// The preset: with several backbones, `universal` in place of the default one.
    fn preset(&self) -> &str {
        let several = !self.with.is_empty() && self.preset == TrainRequest::default().preset;
        if several { "universal" } else { &self.preset }
    }

    /// The run folder of a policy for `model`, or of one for every backbone.
    pub fn out_folder(&self, model: Option<&Path>) -> PathBuf {
        let default = || match model {
            Some(model) => default_out(model, &self.preset),
            None => PathBuf::from("runs/universal"),
        };
        self.out.clone().unwrap_or_else(default)
    }

    /// Trains a policy for `loaded` by `config`, and calibrates it, as one of `ranks`, of which the first alone writes files
    /// and has a choice. A run that was stopped continues.
    ///
    /// # Errors
    /// [`VitrimError::Interrupted`] if the training was stopped, [`vitrim_measure::MeasureError::Interrupted`] if the
    /// calibration was; or if the parts do not fit each other, or a file cannot be read or written.
    pub fn run(
        &self,
        loaded: &Loaded,
        config: TrainConfig,
        ranks: &Ranks,
        listener: &mut Listener<'_>,
    ) -> Result<Trained> {
        let (Some(model), Some(data)) = (&self.model, &self.data) else {
            return Err(VitrimError::Setting("--model and --data are needed to train".into()));
        };
        let (mut config, start) = self.start(config)?;
        if let (Some(GivenStart { shares: Some(shares), .. }), []) = (&start, config.stages.as_slice()) {
            config.stages = blocks_at(shares, loaded.spec.depth, config.departure);
        }
        self.check(loaded, &mut config)?;
        let parts = self.reading.open(data, loaded)?;
        let calibration = (!self.no_calibrate).then_some(self.calibration_split.as_str());
        let splits = Splits { train: &self.split, calibration };
        let images = RunImages::open(loaded, &parts, splits, &mut listener.steps("hashing images"))?;
        note_opened(std::iter::once(&images.train).chain(&images.calibration), listener);
        listener.note(&images.describe(self.calibration_images));
        ranks.agree(&facts(loaded, &config, &images)?, ALIKE)?;
        let out = self.out_folder(Some(model));
        let weights = weights(loaded, &config)?;
        let source = self.source(&images, loaded);
        let ground = ground(loaded, &loaded.id.architecture, &source);
        let aim = Aim::OneBackbone(weights.as_ref());
        let (_folder, trained) = self.learn_in(&out, &config, start, &[ground], aim, ranks, listener)?;
        let trained = AnyPolicy::from(trained);
        note_reading(&images.train, listener);
        let policy_folder = out.join("policy");
        let stop = listener.stop;
        let passes = SharedPasses { ranks, loaded, policy: Some(&trained), workers: self.threads, stop };
        // Who leaves an image out measures others in its place: then rank 0 measures alone.
        let shared = !ranks.is_alone() && self.reading.images.on_bad_image == OnBadImage::Fail;
        let (mut policy, mut choice) = (trained.clone(), None);
        if ranks.is_first() {
            policy = open_policy(&policy_folder, loaded)?;
        } else if let (Some(dataset), true) = (&images.calibration, shared) {
            passes.serve(dataset)?;
        }
        if let (Some(dataset), true) = (&images.calibration, ranks.is_first()) {
            let options = CalibrationOptions {
                settings: grid(),
                pilot: None,
                max_loss: config.constraint.max_accuracy_loss,
                confidence: self.confidence,
                pass: PassOptions {
                    batch: BATCH,
                    workers: self.threads,
                    skip: 0,
                    images: Some(self.calibration_images),
                    on_bad_image: self.reading.images.on_bad_image,
                    corruption: None,
                },
                elsewhere: passes.elsewhere().filter(|_| shared),
            };
            let held_out = (&*parts.path(), &*self.calibration_split, dataset);
            let (calibrated, chosen) =
                calibrate_folder(loaded, &policy_folder, held_out, &options, listener)?;
            if shared {
                passes.end()?;
            }
            (policy, choice) = (calibrated, Some(chosen));
        }
        let parts: Vec<_> = std::iter::once(&images.train).chain(&images.calibration).collect();
        let notes = DataNotes::of(parts);
        Ok(Trained { folder: out, policy_folder, policy, updates: config.updates, choice, notes })
    }

    /// Trains one policy for every backbone on all of `loaded`, the models of [`TrainRequest::with`]. It stays
    /// uncalibrated: `calibrate` certifies it on one backbone. A run that was stopped continues.
    ///
    /// # Errors
    /// As [`TrainRequest::run`].
    pub fn run_on_several(
        &self,
        loaded: &[Loaded],
        config: TrainConfig,
        ranks: &Ranks,
        listener: &mut Listener<'_>,
    ) -> Result<Trained> {
        let (mut config, start) = self.start(config)?;
        config
            .check_universal()
            .map_err(|reason| VitrimError::Setting(format!("configuration: {reason}")))?;
        let (mut all, splits) =
            (Vec::new(), Splits { train: &self.split, calibration: Some(&self.calibration_split) });
        for (loaded, (model, data)) in loaded.iter().zip(&self.with) {
            self.check(loaded, &mut config)?;
            let parts = self.reading.open(data, loaded)?;
            let images = RunImages::open(loaded, &parts, splits, &mut listener.steps("hashing images"))?;
            note_opened([&images.train], listener);
            listener.note(&format!("{}: {} images to train on", name_of(model), images.train.len()));
            all.push(images);
        }
        for (loaded, images) in loaded.iter().zip(&all) {
            ranks.agree(&facts(loaded, &config, images)?, ALIKE)?;
        }
        let sources: Vec<Source> =
            all.iter().zip(loaded).map(|(images, loaded)| self.source(images, loaded)).collect();
        let names: Vec<String> = self.with.iter().map(|(model, _)| name_of(model)).collect();
        let grounds: Vec<_> = loaded
            .iter()
            .zip(&sources)
            .zip(&names)
            .map(|((loaded, source), name)| ground(loaded, name, source))
            .collect();
        let out = self.out_folder(None);
        let (_folder, policy) =
            self.learn_in(&out, &config, start, &grounds, Aim::AnyBackbone, ranks, listener)?;
        let policy = AnyPolicy::from(policy);
        all.iter().for_each(|images| note_reading(&images.train, listener));
        let policy_folder = out.join("policy");
        let notes = DataNotes::of(all.iter().map(|images| &images.train).collect::<Vec<_>>());
        Ok(Trained { folder: out, policy_folder, policy, updates: config.updates, choice: None, notes })
    }

    /// Checks `config`, with the loss that is allowed, for `loaded`.
    fn check(&self, loaded: &Loaded, config: &mut TrainConfig) -> Result<()> {
        if let Some(loss) = allowed(&loaded.spec, self.loss.max_drop, self.loss.max_drift)? {
            config.constraint.max_accuracy_loss = loss;
        }
        config.check(&loaded.spec).map_err(|reason| VitrimError::Setting(format!("configuration: {reason}")))
    }

    /// The policy to start from, if one is given, and `config` with what it needs.
    fn start(&self, config: TrainConfig) -> Result<(TrainConfig, Option<GivenStart>)> {
        let Some(given) = &self.from else { return Ok((config, None)) };
        if let Some(method) = named_method(given) {
            return Err(VitrimError::Setting(format!(
                "{}: {method} is a hand-made method, which has no actor to start from; give a policy folder or universal, \
                 or certify {method} itself: `vitrim calibrate --policy {method} --out runs/{method} ...`",
                given.display()
            )));
        }
        let folder = local(given, Kind::Policy).map_err(MeasureError::from)?;
        let start = match Universal::open(&folder).map_err(MeasureError::from)? {
            Some(universal) => {
                let shares = Some(universal.depth_shares.clone());
                let seen = SeenImages::default();
                GivenStart { start: Start::from(&universal), shares, stages: None, seen }
            }
            None => {
                let policy = Policy::load(&folder).map_err(MeasureError::from)?;
                let stages = Some(policy.stages.clone());
                let seen = SeenImages::read(&folder)?;
                GivenStart { start: Start::from(&policy), shares: None, stages, seen }
            }
        };
        let mut wide = start.start.widen(&config);
        if let Some(stages) = &start.stages {
            wide.stages.clone_from(stages);
        }
        if !self.with.is_empty() {
            // A policy for every backbone stays one.
            wide.actor.observation.embedding = config.actor.observation.embedding;
        }
        Ok((wide, Some(start)))
    }

    fn source(&self, images: &RunImages, loaded: &Loaded) -> Source {
        Source {
            dataset: images.train.clone(),
            transform: loaded.transform.clone(),
            workers: self.threads,
            on_bad_image: self.reading.images.on_bad_image,
        }
    }

    /// Trains in the run folder `out`, which keeps the command. Returns the folder, which stays locked, and the policy for
    /// the first backbone.
    #[expect(clippy::too_many_arguments, reason = "the parts of a run, used once")]
    fn learn_in(
        &self,
        out: &Path,
        config: &TrainConfig,
        start: Option<GivenStart>,
        grounds: &[Ground<'_, CpuBackbone>],
        aim: Aim<'_>,
        ranks: &Ranks,
        listener: &mut Listener<'_>,
    ) -> Result<(RunFolder, Policy)> {
        let identity = start.as_ref().map_or("none", |given| given.start.identity());
        ranks.agree(&[("policy to start from", identity.to_owned())], ALIKE)?;
        let folder = RunFolder::among(ranks, out)?;
        let keep_command = || {
            let command = format!("{}\n", self.command_line());
            vitrim_durable::replace(&out.join(vitrim_report::COMMAND), command.as_bytes())
        };
        if ranks.is_first() {
            let is_new = updates_done(out)?.is_none();
            listener.note(&open_run(&folder, config)?);
            if is_new {
                keep_command()?;
            }
        }
        let (start, seen) = start.map(|given| (given.start, given.seen)).unzip();
        let device = self.device;
        let run = Run { grounds, aim, start: start.as_ref(), config, device, folder: &folder, ranks };
        let policy = learn(&run, seen, listener)?;
        if ranks.is_first() {
            keep_command()?;
        }
        Ok((folder, policy))
    }
}

/// A policy to start from.
struct GivenStart {
    start: Start,
    /// Its stages as shares of the depth, if it fits every backbone.
    shares: Option<Vec<f64>>,
    /// Its stages, if it is for one backbone.
    stages: Option<Vec<usize>>,
    /// The images that it has seen.
    seen: SeenImages,
}

/// `loaded`, called `name`, and its images, as a run takes them.
pub fn ground<'a>(loaded: &'a Loaded, name: &'a str, source: &'a Source) -> Ground<'a, CpuBackbone> {
    let precision = loaded.model.weights().precision();
    Ground { backbone: &loaded.model, id: &loaded.id, name, precision, source }
}

/// Runs the remaining updates of `run`, and writes the record of the images that its policy has seen, besides those of
/// `before`, the record of the policy from which it started. Returns the policy for the first backbone.
///
/// # Errors
/// [`VitrimError::Interrupted`] if it was stopped; if an image cannot be read, or a file cannot be written.
pub fn learn(
    run: &Run<'_, CpuBackbone>,
    before: Option<SeenImages>,
    listener: &mut Listener<'_>,
) -> Result<Policy> {
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
    let (outcome, policy) = vitrim_train::train(run, stop, &mut tell)?;
    let folder = run.folder.path();
    match outcome {
        Outcome::Interrupted if run.ranks.is_first() => {
            Err(VitrimError::Interrupted(saved(folder, updates)?))
        }
        Outcome::Interrupted => Err(VitrimError::Interrupted("rank 0 says what is saved".to_owned())),
        Outcome::Finished => {
            if run.ranks.is_first() {
                let datasets = run.grounds.iter().map(|ground| &ground.source.dataset);
                record_training(&folder.join("policy"), before, datasets, listener)?;
            }
            Ok(policy)
        }
    }
}

/// Records that the policy in `folder` was trained on the images of `datasets`, in addition to the images of `before`,
/// the record of the policy from which it was made.
pub(super) fn record_training<'d>(
    folder: &Path,
    before: Option<SeenImages>,
    datasets: impl IntoIterator<Item = &'d vitrim_data::Dataset>,
    listener: &mut Listener<'_>,
) -> Result<()> {
    let mut seen = before.unwrap_or_default();
    for dataset in datasets {
        seen = seen.trained_on(&dataset.content_hash_list(&mut listener.steps("hashing images"))?);
    }
    Ok(seen.write(folder)?)
}

/// What must be the same on all ranks of a training.
fn facts(loaded: &Loaded, config: &TrainConfig, images: &RunImages) -> Result<Vec<Fact>> {
    let mut facts = facts_of_backbone(loaded);
    facts.extend(facts_of_run(&images.train, images.calibration.as_ref(), &overlay::to_toml(config)?));
    Ok(facts)
}
