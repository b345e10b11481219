//! `compare`: whole fronts of methods, and methods at the same cost and the same loss.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use vitrim_data::Dataset;
use vitrim_prune::Method;
use vitrim_ranks::Ranks;
use vitrim_vit::Precision;

use super::data::note_labels;
use super::{BackboneArgs, DatasetArgs, Request, as_text, named_images, note_reading};
use crate::compare::{CompareOptions, Compared, Comparison, Contender, POLICY, Study, compare};
use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::passes::{BATCH, PassOptions};
use crate::progress::Listener;

/// What to compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct CompareRequest {
    /// Checkpoint folder of the backbone, or hf://owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub model: PathBuf,
    /// The backbone's input size and classes.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub backbone: BackboneArgs,
    /// Data type of the backbone's arithmetic, dense and pruned: f32, bf16 or int8.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().dtype, value_name = "TYPE"))]
    #[serde(serialize_with = "as_text::display")]
    pub dtype: Precision,
    /// Data set, or hf://datasets/owner/name.
    #[cfg_attr(feature = "clap", arg(long, value_name = "PATH"))]
    #[serde(serialize_with = "as_text::path")]
    pub data: PathBuf,
    /// Policy folder, or hf://owner/name, calibrated; without one, the hand-made methods are compared. May be repeated: with
    /// policies of several seeds, means over them are compared.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::paths")]
    pub policy: Vec<PathBuf>,
    /// Another policy to compare with, by name, as in gumbel=runs/gumbel/policy: calibrated, or one that samples; may be
    /// repeated, also with one name for several seeds.
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME=FOLDER", value_parser = parse_rival))]
    #[serde(serialize_with = "rivals")]
    pub rival: Vec<(String, PathBuf)>,
    /// Methods to compare; each is swept and measured by itself, so that fewer take less time.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', default_values_t = Self::default().methods, value_name = "NAMES")
    )]
    #[serde(serialize_with = "as_text::displays")]
    pub methods: Vec<Method>,
    /// Images to compare on [default: test, else calibration].
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub split: Option<String>,
    /// Only the first N of them.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub images: Option<usize>,
    /// Images to sweep the methods' settings on.
    #[cfg_attr(
        feature = "clap",
        arg(long, default_value_t = Self::default().sweep_split, value_name = "NAME")
    )]
    pub sweep_split: String,
    /// Only the first N of them.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().sweep_images, value_name = "N"))]
    pub sweep_images: usize,
    /// Costs to compare at, as shares of the dense MACs.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', default_values_t = Self::default().costs, value_name = "SHARES")
    )]
    pub costs: Vec<f64>,
    /// Drops to compare at, pp.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', default_values_t = Self::default().drops, value_name = "PP")
    )]
    pub drops: Vec<f64>,
    /// Measure only the N settings on either side of each of these costs and drops, not whole fronts.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub near: Option<NonZeroUsize>,
    /// What to study of the policies.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', default_values_t = Self::default().studies, value_name = "STUDIES")
    )]
    #[serde(serialize_with = "as_text::displays")]
    pub studies: Vec<Study>,
    /// Leave the studies out.
    #[cfg_attr(feature = "clap", arg(long, conflicts_with = "studies"))]
    pub no_studies: bool,
    /// Do not measure images/s.
    #[cfg_attr(feature = "clap", arg(long))]
    pub no_speed: bool,
    /// Seconds to measure the images/s of each setting for.
    #[cfg_attr(
        feature = "clap",
        arg(long, default_value_t = Self::default().speed_seconds, value_name = "S", conflicts_with = "no_speed")
    )]
    pub speed_seconds: f64,
    /// Images per batch.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().batch, value_name = "N"))]
    pub batch: usize,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: DatasetArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub threads: usize,
    /// Folder for the figures and report.html; an interrupted comparison continues from it.
    #[cfg_attr(
        feature = "clap",
        arg(long, default_value_os_t = Self::default().report, value_name = "FOLDER")
    )]
    #[serde(serialize_with = "as_text::path")]
    pub report: PathBuf,
}

impl Default for CompareRequest {
    fn default() -> Self {
        CompareRequest {
            model: PathBuf::new(),
            backbone: BackboneArgs::default(),
            dtype: Precision::F32,
            data: PathBuf::new(),
            policy: Vec::new(),
            rival: Vec::new(),
            methods: Method::all().collect(),
            split: None,
            images: None,
            sweep_split: "calibration".to_owned(),
            sweep_images: 1_000,
            costs: vec![0.9, 0.8, 0.7, 0.6, 0.5],
            drops: vec![0.4, 1.0],
            near: None,
            studies: Study::ALL.to_vec(),
            no_studies: false,
            no_speed: false,
            speed_seconds: 1.5,
            batch: BATCH,
            reading: DatasetArgs::default(),
            threads: 0,
            report: PathBuf::from("runs/compare"),
        }
    }
}

impl Request for CompareRequest {
    const VERB: &'static str = "compare";
    const REPEATED: &'static [&'static str] = &["policy", "rival"];
}

fn rivals<S: Serializer>(rivals: &[(String, PathBuf)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rivals.iter().map(|(name, folder)| format!("{name}={}", folder.display())))
}

#[cfg(feature = "clap")]
fn parse_rival(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("give NAME=FOLDER, as in gumbel=runs/gumbel/policy")?;
    Ok((name.to_owned(), PathBuf::from(folder)))
}

impl CompareRequest {
    /// Compares on `loaded`: the requested policies, after `own` if that is given, and the hand-made methods. The
    /// figures are written to the requested folder. `ranks` share the images; the first alone writes. Returns the figures,
    /// and the request with the split that was used.
    ///
    /// # Errors
    /// If a cost is not a share or a drop not a percentage, images cannot be read, a method does not fit the
    /// backbone, the folder has figures of another comparison, or the work was asked to stop.
    pub fn run(
        &self,
        loaded: &Loaded,
        own: Option<Contender>,
        ranks: &Ranks,
        listener: &mut Listener<'_>,
    ) -> Result<(Comparison, Self)> {
        let speed = match Duration::try_from_secs_f64(self.speed_seconds) {
            Ok(time) => (!self.no_speed).then_some(time),
            Err(error) => return Err(MeasureError::Setting(format!("speed-seconds: {error}"))),
        };
        let policies = self.policy.iter().map(|folder| (POLICY, folder.as_path()));
        let rivals = self.rival.iter().map(|(name, folder)| (name.as_str(), folder.as_path()));
        let others =
            policies.chain(rivals).map(|(name, folder): (&str, &Path)| Contender::open(name, folder, loaded));
        let contenders: Vec<Contender> = own.map(Ok).into_iter().chain(others).collect::<Result<_>>()?;
        let parts = self.reading.open(&self.data, loaded)?;
        let (images, split) = named_images(loaded, &parts, self.split.as_deref(), listener)?;
        let sweep: Dataset = parts.named(&self.sweep_split, &mut listener.steps("hashing images"))?;
        if sweep.label_notes() != images.label_notes() {
            note_labels([&sweep], listener);
        }
        if images.is_stream() {
            let reason =
                "is read front to back, but compare makes many passes; save it to files, decompressed (.tar)";
            return Err(MeasureError::Part { data: parts.path(), reason: reason.into() });
        }
        if split == self.sweep_split {
            listener.note("note: settings are chosen on these images; only others give a fair comparison");
        }
        let pass = PassOptions {
            batch: self.batch.max(1),
            workers: self.threads,
            skip: 0,
            images: self.images,
            on_bad_image: self.reading.images.on_bad_image,
            corruption: None,
        };
        let options = CompareOptions {
            pass,
            methods: self.methods.clone(),
            studies: if self.no_studies { Vec::new() } else { self.studies.clone() },
            sweep_images: self.sweep_images,
            costs: self.costs.clone(),
            losses: self.drops.clone(),
            near: self.near,
            speed,
            ranks: ranks.clone(),
        };
        let data = parts.path();
        let compared =
            Compared { loaded, contenders: &contenders, data: &data, sweep: &sweep, images: &images };
        let comparison = compare(compared, &options, &self.report, listener)?;
        if ranks.is_first() {
            let figures = serde_json::to_vec_pretty(&comparison).expect("figures are plain data");
            vitrim_durable::replace(&self.report.join("comparison.json"), &figures)?;
        }
        for dataset in [&sweep, &images] {
            note_reading(dataset, listener);
        }
        Ok((comparison, CompareRequest { split: Some(split), ..self.clone() }))
    }
}
