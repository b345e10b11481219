//! `bench`: a backbone timed, dense and pruned.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use vitrim_prune::{AnyPolicy, Dial, FIT_IMAGES, KeepProfile, Method, Policy, Pruner, ReadOut, keep_shares};
use vitrim_vit::Precision;

use super::{BackboneArgs, ImageArgs, PolicyArgs, Request, as_text, note_opened, note_reading};
use crate::error::{MeasureError, Result};
use crate::fits::Fits;
use crate::model::Loaded;
use crate::progress::Listener;
use crate::speed::bench::{BenchModel, BenchOptions, BenchReport, bench};
use crate::speed::bench_images::BenchImages;

/// The default keep ratio.
const KEEP: f64 = 0.7;

/// What to time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct BenchRequest {
    /// Checkpoint folder, hf://owner/name, or a timm name (random weights), such as deit_small_patch16_224.
    #[cfg_attr(feature = "clap", arg(long, value_name = "MODEL"))]
    pub model: String,
    /// The backbone's input size and classes.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub backbone: BackboneArgs,
    /// Data type of the backbone's arithmetic: any of f32, bf16 and int8.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', default_values_t = Self::default().dtype, value_name = "TYPES")
    )]
    #[serde(serialize_with = "as_text::displays")]
    pub dtype: Vec<Precision>,
    /// The policy.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub policy: PolicyArgs,
    /// Images to time with: the first of this data set's test images [default: random pixels].
    #[cfg_attr(feature = "clap", arg(long, value_name = "PATH"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub data: Option<PathBuf>,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: ImageArgs,
    /// Batch sizes.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_delimiter = ',',
            default_values_t = Self::default().batch,
            value_name = "SIZES",
            value_parser = clap::value_parser!(u16).range(1..=4096)
        )
    )]
    pub batch: Vec<u16>,
    /// Shares of the patch tokens left after each stage; a single one is taken to the power of the stage
    /// [default: 0.7; with a policy, its own read-out].
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ',', value_name = "RATIOS"))]
    pub keep: Vec<f64>,
    /// 0-based blocks to prune before [default: L/4, L/2, 3L/4 of L].
    #[cfg_attr(
        feature = "clap",
        arg(long, value_delimiter = ',', value_name = "BLOCKS", conflicts_with = "policy")
    )]
    pub stages: Vec<usize>,
    /// Method: policy (without --policy, one with random weights) or a hand-made one, as in `compare`.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().method, value_name = "NAME"))]
    #[serde(serialize_with = "as_text::display")]
    pub method: Method,
    /// Seconds to measure each dtype at each batch size for.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().seconds, value_name = "S"))]
    pub seconds: f64,
    /// Least number of rounds, in which all models take turns.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            default_value_t = Self::default().rounds,
            value_name = "N",
            value_parser = clap::value_parser!(u16).range(1..)
        )
    )]
    pub rounds: u16,
    /// Batches in flight at once, between which the threads are divided: with one batch per thread, throughput at
    /// batch 1 is higher, and each batch takes longer.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            default_value_t = Self::default().streams,
            value_name = "N",
            value_parser = clap::value_parser!(u16).range(1..)
        )
    )]
    pub streams: u16,
    /// Report the time of each operation.
    #[cfg_attr(feature = "clap", arg(long))]
    pub profile: bool,
    /// Compare budgets that differ between the images of a batch with equal ones of the same total.
    #[cfg_attr(feature = "clap", arg(long))]
    pub ragged: bool,
    /// The command line's global option: threads that compute; 0 for one per core.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub threads: usize,
}

impl Default for BenchRequest {
    fn default() -> Self {
        BenchRequest {
            model: String::new(),
            backbone: BackboneArgs::default(),
            dtype: vec![Precision::F32],
            policy: PolicyArgs::default(),
            data: None,
            reading: ImageArgs::default(),
            batch: vec![1, 32],
            keep: Vec::new(),
            stages: Vec::new(),
            method: Method::Policy,
            seconds: 3.0,
            rounds: 5,
            streams: 1,
            profile: false,
            ragged: false,
            threads: 0,
        }
    }
}

impl Request for BenchRequest {
    const VERB: &'static str = "bench";
}

impl BenchRequest {
    /// Runs the benchmark, on the caller's threads.
    ///
    /// # Errors
    /// If the backbone, the policy or the images cannot be opened or do not fit each other, or a setting is out of
    /// bounds.
    pub fn run(&self, listener: &mut Listener<'_>) -> Result<BenchReport> {
        if !(0.0..=3600.0).contains(&self.seconds) {
            let reason = format!("--seconds {} must lie between 0 and 3600", self.seconds);
            return Err(MeasureError::Setting(reason));
        }
        let (mut models, mut method, mut trained) = (Vec::new(), String::new(), None);
        for dtype in &self.dtype {
            let loaded = Loaded::open_or_random(&self.model, self.backbone.opening(*dtype))?;
            if models.is_empty() {
                trained = self.policy.open(None, &loaded, listener)?;
            }
            let (pruner, named) = self.pruner(&loaded, trained.clone(), listener)?;
            method = named;
            models.push(BenchModel { loaded, pruner });
        }
        let Some(first) = models.first() else {
            return Err(MeasureError::Setting("--dtype names none to time".into()));
        };
        let ragged =
            if self.ragged { Some(self.keep_profile(&first.loaded, trained.as_ref())?) } else { None };
        let options = BenchOptions {
            batches: self.batch.iter().map(|batch| usize::from(*batch)).collect(),
            time: Duration::from_secs_f64(self.seconds),
            rounds: usize::from(self.rounds),
            streams: usize::from(self.streams),
            profile: self.profile,
            ragged,
        };
        let largest = options.batches.iter().copied().max().unwrap_or(1);
        let images = self.images(&first.loaded, largest, listener)?;
        let (mut done, sizes) = (0, options.batches.len());
        let mut timing = listener.steps("timing");
        bench(&models, method, &images, &options, &mut |_| {
            timing(done, sizes);
            done += 1;
        })
    }

    /// Images, enough for batches of `largest`.
    fn images(&self, loaded: &Loaded, largest: usize, listener: &mut Listener<'_>) -> Result<BenchImages> {
        let Some(data) = &self.data else {
            if self.policy.policy.is_some() && self.keep.is_empty() {
                listener.note("note: this policy decides by the image; --data times it on real ones");
            }
            return Ok(BenchImages::random(loaded, largest));
        };
        let parts = self.reading.open(data)?;
        let dataset = parts.part(parts.final_part(), &mut |_, _| ())?;
        note_opened([&dataset], listener);
        let images = BenchImages::of(loaded, &dataset, largest, self.reading.on_bad_image)?;
        note_reading(&dataset, listener);
        Ok(images)
    }

    /// Stages, and the shares of N0 that stay after them.
    fn keep_profile(&self, loaded: &Loaded, policy: Option<&AnyPolicy>) -> Result<(Vec<usize>, Vec<f64>)> {
        let stages = match policy {
            Some(policy) => policy.drop_stages(&loaded.spec)?,
            None if self.stages.is_empty() => loaded.spec.default_stages(),
            None => self.stages.clone(),
        };
        let default = [KEEP];
        let keep = keep_shares(if self.keep.is_empty() { &default } else { &self.keep }, stages.len())?;
        Ok((stages, keep))
    }

    /// The pruner to time, and its name; a method that needs images is fitted to those that are timed.
    fn pruner(
        &self,
        loaded: &Loaded,
        policy: Option<AnyPolicy>,
        listener: &mut Listener<'_>,
    ) -> Result<(Box<dyn Pruner>, String)> {
        let (stages, keep) = self.keep_profile(loaded, policy.as_ref())?;
        let top_r = ReadOut::TopR { keep: keep.clone() };
        if self.method != Method::Policy {
            let named = format!("{} {}", self.method, top_r);
            let mut fits = Fits::default();
            if self.method.needs_images(&loaded.spec) {
                let images = self.images(loaded, FIT_IMAGES, listener)?;
                listener.follow("fitting", |progress| {
                    fits.add_on(self.method, loaded, images.batch(), &mut progress.tell())
                })?;
            }
            return Ok((fits.at_shares(self.method, loaded, &stages, &keep)?, named));
        }
        KeepProfile::new(&loaded.spec, &stages, &keep)?;
        let (mut policy, what) = match policy {
            Some(policy) => (policy, "policy"),
            None => {
                let policy = Policy::untrained(&loaded.spec, loaded.id.clone(), &stages, &keep);
                let seeing = policy.observation.cls_attention;
                (policy.into(), if seeing { "random policy" } else { "random policy without attention" })
            }
        };
        if !self.keep.is_empty() {
            policy.set(Dial::ReadOut(top_r))?;
        }
        let named = format!("{what} {}", policy.dial());
        Ok((policy.pruner(&loaded.spec)?, named))
    }
}
