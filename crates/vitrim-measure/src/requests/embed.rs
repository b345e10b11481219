//! `embed`: a whole data set answered into parquet files.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_data::{DataError, Dataset};
use vitrim_hub::{Kind, local};
use vitrim_prune::{AnyPolicy, NoPruner, Pruner};
use vitrim_vit::Precision;

use super::{BackboneArgs, ImageArgs, KeepArgs, PolicyArgs, Request, as_text, note_opened, note_reading};
use crate::calibrate::record;
use crate::embed::{Certified, EmbedOptions, Embedded, FeatureColumn, Manifest, Shard, SplitImages, embed};
use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::model::features::FeatureKind;
use crate::passes::BATCH;
use crate::progress::Listener;

/// What is computed for each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Answers {
    /// Features.
    Features,
    /// The most probable class.
    Classes,
    /// Both.
    Both,
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answers::Features => "features",
            Answers::Classes => "classes",
            Answers::Both => "both",
        })
    }
}

/// Which data set to answer, and where to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct EmbedRequest {
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub model: PathBuf,
    /// The backbone's input size and classes.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub backbone: BackboneArgs,
    /// Data type of the backbone's arithmetic: f32, bf16 or int8.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().dtype, value_name = "TYPE"))]
    #[serde(serialize_with = "as_text::display")]
    pub dtype: Precision,
    /// Data set, or hf://datasets/owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "PATH"))]
    #[serde(serialize_with = "as_text::path")]
    pub data: PathBuf,
    /// The policy.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub policy: PolicyArgs,
    /// The policy's cost.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub keep: KeepArgs,
    /// Folder for the parquet files; it is empty or absent, or this command has begun to fill it.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// Write share I, from 0, of N shares of the files; other processes write the others [default: all].
    #[cfg_attr(feature = "clap", arg(long, value_name = "I/N"))]
    #[serde(serialize_with = "as_text::display_option")]
    pub shard: Option<Shard>,
    /// What to compute: features, classes or both [default: both; features if the backbone has no classes].
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "WHAT"))]
    #[serde(serialize_with = "as_text::display_option")]
    pub answer: Option<Answers>,
    /// The features of an image: pooled, or its embedding in the space of texts.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_enum, default_value_t = Self::default().features, value_name = "KIND")
    )]
    pub features: FeatureKind,
    /// Images of one split only: train, calibration, test or a split of the data set's own [default: every split].
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub split: Option<String>,
    /// Images per file.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().part, value_name = "N"))]
    pub part: usize,
    /// Images per batch.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().batch, value_name = "N"))]
    pub batch: usize,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: ImageArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub threads: usize,
}

impl Default for EmbedRequest {
    fn default() -> Self {
        EmbedRequest {
            model: PathBuf::new(),
            backbone: BackboneArgs::default(),
            dtype: Precision::F32,
            data: PathBuf::new(),
            policy: PolicyArgs::default(),
            keep: KeepArgs::default(),
            out: PathBuf::new(),
            shard: None,
            answer: None,
            features: FeatureKind::Pooled,
            split: None,
            part: 4096,
            batch: BATCH,
            reading: ImageArgs::default(),
            threads: 0,
        }
    }
}

impl Request for EmbedRequest {
    const VERB: &'static str = "embed";
}

impl EmbedRequest {
    /// Writes the missing files of the shard.
    ///
    /// # Errors
    /// If the backbone lacks what is asked for, the data set is a stream, the folder belongs to another command or cannot
    /// be written, an image cannot be read, or the work was asked to stop: files that were written stay.
    pub fn run(&self, loaded: &Loaded, listener: &mut Listener<'_>) -> Result<Embedded> {
        for (name, value) in [("part", self.part), ("batch", self.batch)] {
            if value == 0 {
                return Err(MeasureError::Setting(format!("--{name} 0: give at least one image")));
            }
        }
        let (features, classes) = self.answers(loaded)?;
        let hand_made = self.policy.hand_made(self.keep.keep, loaded)?;
        let (pruner, policy, certified): (Box<dyn Pruner>, _, _) = match hand_made {
            Some(method) => (method, self.policy.policy.as_deref().map(vitrim_text::shown), None),
            None => match self.policy.open(self.keep.keep, loaded, listener)? {
                Some(policy) => {
                    let certified = self.certified(loaded, &policy);
                    (policy.pruner(&loaded.spec)?, Some(policy.identity()), certified)
                }
                None => (Box::new(NoPruner), None, Some(Certified::dense(loaded.spec.num_classes))),
            },
        };
        let splits = self.splits(listener)?;
        note_opened(splits.iter().map(|(_, dataset)| dataset), listener);
        let manifest = Manifest {
            vitrim: env!("CARGO_PKG_VERSION").to_owned(),
            command: EmbedRequest { shard: None, threads: 0, ..self.clone() }.command_line(),
            backbone: loaded.id.clone(),
            dtype: loaded.model.weights().precision(),
            policy,
            certified,
            features,
            classes,
            exif: self.reading.exif,
            batch: self.batch,
            part: self.part,
            splits: splits.iter().map(|(name, dataset)| SplitImages::of(name, dataset)).collect(),
        };
        let options = EmbedOptions {
            out: self.out.clone(),
            shard: self.shard.unwrap_or(Shard::WHOLE),
            workers: self.threads,
            on_bad_image: self.reading.on_bad_image,
        };
        let datasets: Vec<Dataset> = splits.into_iter().map(|(_, dataset)| dataset).collect();
        let embedded = embed(loaded, pruner.as_ref(), &datasets, &manifest, &options, listener);
        datasets.iter().for_each(|dataset| note_reading(dataset, listener));
        embedded
    }

    /// The features, and the number of classes, to compute.
    fn answers(&self, loaded: &Loaded) -> Result<(Option<FeatureColumn>, Option<usize>)> {
        let (spec, kind) = (&loaded.spec, self.features);
        let classes = spec.num_classes;
        let answer = self.answer.unwrap_or(if classes == 0 { Answers::Features } else { Answers::Both });
        if answer != Answers::Features && classes == 0 {
            return Err(MeasureError::Setting(format!(
                "--answer {answer}: the backbone ({}) has no classes; give --answer features, or --classes FILE",
                loaded.origin
            )));
        }
        let width = match kind {
            FeatureKind::Pooled => spec.num_features(),
            FeatureKind::Embedding => spec.embedding_width().ok_or_else(|| {
                MeasureError::Setting(format!(
                    "--features embedding: the backbone ({}) has no space of texts; give --features pooled",
                    loaded.origin
                ))
            })?,
            FeatureKind::Tokens => {
                return Err(MeasureError::Setting(
                    "--features tokens: images keep different numbers of tokens, which one column of fixed size cannot \
                     hold; give pooled or embedding, or use `vitrim predict`"
                        .into(),
                ));
            }
        };
        let features = (answer != Answers::Classes).then_some(FeatureColumn { kind, width });
        Ok((features, (answer != Answers::Features).then_some(classes)))
    }

    /// What the calibration record of `policy` certifies as it is set, in this precision.
    fn certified(&self, loaded: &Loaded, policy: &AnyPolicy) -> Option<Certified> {
        let record = record(policy, Path::new("")).ok()?;
        let setting = policy.dial().setting()?;
        if record.dtype != loaded.model.weights().precision() {
            return None;
        }
        let confidence = self.policy.confidence.unwrap_or(record.confidence);
        Some(Certified {
            measure: record.front.measure().name().to_owned(),
            unit: record.front.measure().unit().to_owned(),
            at_most: record.front.certified(setting, confidence)?,
            confidence: confidence.level(),
        })
    }

    /// The splits, each with its name.
    fn splits(&self, listener: &mut Listener<'_>) -> Result<Vec<(String, Dataset)>> {
        let local = local(&self.data, Kind::Data)?.into_owned();
        if Dataset::streams(&local)? {
            let (origin, wanted) = (self.data.display().to_string(), "read at any place, which embed does");
            return Err(DataError::OnePass { origin, wanted }.into());
        }
        let names = match &self.split {
            Some(name) => vec![name.clone()],
            None => Dataset::splits(&local)?,
        };
        let parts = self.reading.open(&self.data)?;
        let mut opened = Vec::new();
        for name in names {
            let dataset = match &self.split {
                Some(name) => parts.named(name, &mut listener.steps("hashing images"))?,
                None => Dataset::open(&local, Some(&name))?.decoded_by(self.reading.decoding()),
            };
            opened.push((name, dataset.unlabelled()));
        }
        Ok(opened)
    }
}
