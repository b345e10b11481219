//! `calibrate`: the threshold that keeps the loss within a limit.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_data::{ContentHash, Dataset};
use vitrim_hub::{Kind, is_reference, local};
use vitrim_prune::Policy;
use vitrim_prune::policy::{BALANCE_IMAGES, UNIVERSAL, Universal, balance};
use vitrim_vit::{Precision, VitError};

use super::{BackboneArgs, DataNotes, DatasetArgs, Request, as_text, named_images, note_reading};
use crate::calibrate::{
    Calibrated, CalibrationOptions, MAX_LOSS, allowed, calibrate, coarse_grid, grid, record,
};
use crate::elsewhere::Elsewhere;
use crate::error::{MeasureError, Result};
use crate::front::Choice;
use crate::images::DataParts;
use crate::model::{Loaded, open_policy};
use crate::passes::{BATCH, PassOptions};
use crate::progress::Listener;
use crate::seen::{SeenImages, hashes_at};
use crate::speed::bench_images::BenchImages;
use crate::statistics::Confidence;

/// The split whose images balance a policy.
const OTHERS: &str = "train";

/// The loss that is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct LossArgs {
    /// Loss of top-1 that is allowed, pp [default: that of the configuration or the last calibration, else 0.4].
    #[cfg_attr(feature = "clap", arg(long, value_name = "PP", allow_negative_numbers = true))]
    pub max_drop: Option<f64>,
    /// For a backbone without classes: drift of its pooled features that is allowed, 100 (1 - cos), percent.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "PERCENT", allow_negative_numbers = true, conflicts_with = "max_drop")
    )]
    pub max_drift: Option<f64>,
}

/// What to calibrate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct CalibrateRequest {
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
    /// Policy folder, or with --out also `universal`, a policy for every backbone or an hf:// reference. Without --out, its
    /// threshold and calibration record are replaced.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path")]
    pub policy: PathBuf,
    /// Run folder; the calibrated policy goes to its `policy/`, and the given one stays as it is.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub out: Option<PathBuf>,
    /// Data set with images that the policy was not trained on.
    #[cfg_attr(feature = "clap", arg(long, value_name = "PATH"))]
    #[serde(serialize_with = "as_text::path")]
    pub data: PathBuf,
    /// The loss that is allowed.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub loss: LossArgs,
    /// Confidence of the bound on the loss; 0.5 takes the measured value.
    #[cfg_attr(
        feature = "clap",
        arg(long, default_value_t = Self::default().confidence, value_name = "SHARE")
    )]
    pub confidence: Confidence,
    /// Images to calibrate on.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().split, value_name = "NAME"))]
    pub split: String,
    /// Largest number of images to calibrate on.
    #[cfg_attr(
        feature = "clap",
        arg(long, default_value_t = Self::default().calibration_images, value_name = "N")
    )]
    pub calibration_images: usize,
    /// Do not balance the stages of a policy for every backbone: how much each of them takes is otherwise found first, on up
    /// to 64 images of the split `train`, without their labels.
    #[cfg_attr(feature = "clap", arg(long))]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_balance: bool,
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub reading: DatasetArgs,
    /// The command line's global option: decoding threads; 0 for one per core.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub threads: usize,
}

impl Default for CalibrateRequest {
    fn default() -> Self {
        CalibrateRequest {
            model: PathBuf::new(),
            backbone: BackboneArgs::default(),
            dtype: Precision::F32,
            policy: PathBuf::new(),
            out: None,
            data: PathBuf::new(),
            loss: LossArgs::default(),
            confidence: Confidence::DEFAULT,
            split: "calibration".to_owned(),
            calibration_images: 10_000,
            no_balance: false,
            reading: DatasetArgs::default(),
            threads: 0,
        }
    }
}

impl Request for CalibrateRequest {
    const VERB: &'static str = "calibrate";
}

impl CalibrateRequest {
    /// The folder that the calibrated policy is written to.
    pub fn target(&self) -> PathBuf {
        self.out.as_ref().map_or_else(|| self.policy.clone(), |out| out.join("policy"))
    }

    /// Checks that the calibrated policy can be written.
    ///
    /// # Errors
    /// [`MeasureError::Policy`] without `out` if the given policy is a reference to the Hub or for every backbone;
    /// [`MeasureError::Prune`] if it is none.
    pub fn check_folder(&self) -> Result<()> {
        let refused =
            |reason: &str| Err(MeasureError::Policy { path: self.policy.clone(), reason: reason.to_owned() });
        if self.out.is_some() {
            return Ok(());
        }
        if is_reference(&self.policy) {
            return refused(
                "the calibrated policy cannot be written there; give --out, or a copy in a folder of yours",
            );
        }
        if self.fits_every_backbone()? {
            return refused(
                "is for every backbone; its calibration for this one is written elsewhere: give --out, as in --out \
                 runs/quick",
            );
        }
        Ok(())
    }

    /// Whether the given policy is for every backbone.
    fn fits_every_backbone(&self) -> Result<bool> {
        Ok(Universal::open(&local(&self.policy, Kind::Policy)?)?.is_some())
    }

    /// Calibrates `policy`, which was read from the requested folder, on `loaded`, and writes it to the target; `elsewhere` are
    /// other processes that measure, if this one does not. Returns the choice, and what was guessed of the images.
    ///
    /// # Errors
    /// If the folder cannot be written, images cannot be read, or the work was asked to stop: the folder is then
    /// unchanged.
    pub fn run(
        &self,
        loaded: &Loaded,
        policy: &mut Policy,
        elsewhere: Option<Elsewhere<'_>>,
        listener: &mut Listener<'_>,
    ) -> Result<(Choice, DataNotes)> {
        self.check_folder()?;
        let before = || record(policy, &self.policy).map(|record| record.max_drop).ok();
        let given = allowed(&loaded.spec, self.loss.max_drop, self.loss.max_drift)?;
        let max_loss = given.or_else(before).unwrap_or(MAX_LOSS);
        let parts = self.reading.open(&self.data, loaded)?;
        let (dataset, split) = named_images(loaded, &parts, Some(&self.split), listener)?;
        let every_backbone = self.fits_every_backbone()?;
        let balanced_on = if every_backbone && !self.no_balance {
            self.balance(loaded, policy, &parts, &split, listener)?
        } else {
            Vec::new()
        };
        let pass = PassOptions {
            batch: BATCH,
            workers: self.threads,
            skip: 0,
            images: Some(self.calibration_images),
            on_bad_image: self.reading.images.on_bad_image,
            corruption: None,
        };
        let options = CalibrationOptions {
            thresholds: if every_backbone { coarse_grid() } else { grid() },
            pilot: None,
            max_loss,
            confidence: self.confidence,
            pass,
            elsewhere,
        };
        let choice = calibrate_policy(
            loaded,
            (policy, &self.policy, &self.target()),
            (&parts.path(), &split, &dataset),
            &balanced_on,
            &options,
            listener,
        )?;
        Ok((choice, DataNotes::of([&dataset])))
    }

    /// Finds offsets of the stages of `policy` on images of the split `train` of `parts` ([`balance`]); the policy is to be
    /// calibrated on `split`. Returns the hashes of these images. Where there are no others than those of `split`, the
    /// policy stays as it is, and that is said.
    fn balance(
        &self,
        loaded: &Loaded,
        policy: &mut Policy,
        parts: &DataParts,
        split: &str,
        listener: &mut Listener<'_>,
    ) -> Result<Vec<ContentHash>> {
        let others = match split {
            OTHERS => Err("they are those that certify".to_owned()),
            _ => parts.named(OTHERS, &mut listener.steps("hashing images")).map_err(|e| e.to_string()),
        };
        let others = match others {
            Ok(others) => others,
            Err(reason) => {
                listener
                    .note(&format!("the policy's stages are not balanced: no images of {OTHERS}: {reason}"));
                return Ok(Vec::new());
            }
        };
        let images = BenchImages::drawn(loaded, &others, BALANCE_IMAGES, self.reading.images.on_bad_image)?;
        policy.offsets = listener.follow("balancing the stages", |progress| {
            let mut tell =
                |done: usize, all: usize| progress.at(done, all).map_err(|_| VitError::Interrupted.into());
            balance(&loaded.model, policy, images.batch(), &mut tell)
        })?;
        let hashes = hashes_at(&others, &images.indices, &mut listener.steps("hashing images"))?;
        Ok(hashes.unwrap_or_default())
    }
}

/// Calibrates the policy in `folder` on a data set, given by its path, and the name of the split; returns the policy
/// as it is written back.
///
/// # Errors
/// As [`CalibrateRequest::run`].
pub fn calibrate_folder(
    loaded: &Loaded,
    folder: &Path,
    held_out: (&str, &str, &Dataset),
    options: &CalibrationOptions<'_>,
    listener: &mut Listener<'_>,
) -> Result<(Policy, Choice)> {
    let mut policy = open_policy(folder, loaded)?;
    let choice = calibrate_policy(loaded, (&mut policy, folder, folder), held_out, &[], options, listener)?;
    Ok((policy, choice))
}

fn calibrate_policy(
    loaded: &Loaded,
    (policy, from, to): (&mut Policy, &Path, &Path),
    (data, split, dataset): (&str, &str, &Dataset),
    balanced_on: &[ContentHash],
    options: &CalibrationOptions<'_>,
    listener: &mut Listener<'_>,
) -> Result<Choice> {
    let answer = listener.follow("calibrating", |progress| {
        calibrate(loaded, policy, (data, split), dataset, options, progress)
    });
    note_reading(dataset, listener);
    let Calibrated { choice, indices } = answer?;
    let seen = match from == Path::new(UNIVERSAL) {
        true => SeenImages::default(),
        false => SeenImages::read(&local(from, Kind::Policy)?)?,
    };
    let seen = if balanced_on.is_empty() { seen } else { seen.trained_on(balanced_on) };
    let seen = match hashes_at(dataset, &indices, &mut listener.steps("hashing images"))? {
        Some(hashes) => seen.calibrated_on(&hashes),
        None => seen.uncalibrated(),
    };
    policy.save(to)?;
    seen.write(to)?;
    Ok(choice)
}
