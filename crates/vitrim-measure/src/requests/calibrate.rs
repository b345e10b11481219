//! `calibrate`: the setting that keeps the loss within a limit.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_data::Dataset;
use vitrim_hub::{Kind, is_reference, local};
use vitrim_prune::policy::{UNIVERSAL, Universal};
use vitrim_prune::{AnyPolicy, Method, MethodPolicy};
use vitrim_vit::Precision;

use super::{BackboneArgs, DataNotes, DatasetArgs, Request, as_text, named_images, note_reading};
use crate::calibrate::{
    Calibrated, CalibrationOptions, MAX_LOSS, allowed, calibrate, coarse_grid, cost_grid, grid, record,
};
use crate::elsewhere::Elsewhere;
use crate::error::{MeasureError, Result};
use crate::fits::{balance_apart, fit_apart};
use crate::front::Choice;
use crate::images::DataParts;
use crate::model::{Loaded, named_method, open_policy};
use crate::passes::{BATCH, PassOptions};
use crate::progress::Listener;
use crate::seen::{SeenImages, hashes_at};
use crate::statistics::Confidence;

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
    /// Policy folder, or with --out also `universal`, a policy for every backbone, an hf:// reference, or the name of a
    /// hand-made method, as in dtome, which is first fitted to training images if it needs that. Without --out, the
    /// policy's setting and calibration record are replaced.
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
    /// [`MeasureError::Policy`] without `out` if the given policy is a reference to the Hub, for every backbone or a
    /// hand-made method, or if a method is given with its keep ratio; [`MeasureError::Prune`] if it is no policy.
    pub fn check_folder(&self) -> Result<()> {
        let refused =
            |reason: &str| Err(MeasureError::Policy { path: self.policy.clone(), reason: reason.to_owned() });
        if let Some(method) = self.method() {
            if self.policy != Path::new(method.name()) {
                return refused(&format!("calibrate finds the cost itself; give --policy {method}"));
            }
            if self.out.is_none() {
                return refused(&format!(
                    "is a hand-made method, and no folder to write to; give --out, as in --out runs/{method}"
                ));
            }
        }
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

    /// The hand-made method that is named in place of a policy, if one is.
    fn method(&self) -> Option<Method> {
        named_method(&self.policy)
    }

    /// Opens the policy and the images to calibrate on; a hand-made method that is named is first fitted, and a policy for every
    /// backbone is balanced, on other images.
    ///
    /// # Errors
    /// As [`CalibrateRequest::check_folder`], if the policy or the images cannot be opened, or if a method was or would be
    /// fitted to the images that are to certify it.
    pub fn prepare(&self, loaded: &Loaded, listener: &mut Listener<'_>) -> Result<Prepared> {
        self.check_folder()?;
        let given = match self.method() {
            Some(method) => Given::Method(method),
            None => Given::Policy(Box::new(open_policy(&self.policy, loaded)?), seen_by(&self.policy)?),
        };
        let parts = self.reading.open(&self.data, loaded)?;
        let (dataset, split) = named_images(loaded, &parts, Some(&self.split), listener)?;
        let on_bad_image = self.reading.images.on_bad_image;
        let (policy, seen) = match given {
            Given::Policy(mut policy, seen) => {
                if let AnyPolicy::Learned(policy) = policy.as_mut()
                    && !self.no_balance
                    && self.fits_every_backbone()?
                {
                    balance_apart(policy, loaded, (&parts, &dataset), on_bad_image, listener)?;
                }
                (*policy, seen)
            }
            Given::Method(method) => {
                let (fitted, seen) = fit_apart(method, loaded, (&parts, &dataset), on_bad_image, listener)?;
                (AnyPolicy::Method(MethodPolicy::new(&loaded.id, method, fitted)), seen)
            }
        };
        let prepared = Prepared { policy, seen, parts, dataset, split };
        prepared.check_apart(listener)?;
        Ok(prepared)
    }

    /// The settings to measure for `policy`, from the mildest to the boldest.
    fn settings(&self, loaded: &Loaded, policy: &AnyPolicy) -> Result<Vec<f64>> {
        Ok(match policy {
            AnyPolicy::Method(policy) => cost_grid(policy.least_cost(&loaded.spec)?),
            AnyPolicy::Learned(_) if self.fits_every_backbone()? => coarse_grid(),
            AnyPolicy::Learned(_) => grid(),
        })
    }

    /// Calibrates the policy of `prepared`, which this request has opened, on `loaded`, and writes it to the target;
    /// `elsewhere` are other processes that measure, if this one does not. Returns the choice, and what was guessed of the
    /// images.
    ///
    /// # Errors
    /// If the folder cannot be written, images cannot be read, or the work was asked to stop: the folder is then
    /// unchanged.
    pub fn run(
        &self,
        loaded: &Loaded,
        prepared: &mut Prepared,
        elsewhere: Option<Elsewhere<'_>>,
        listener: &mut Listener<'_>,
    ) -> Result<(Choice, DataNotes)> {
        let Prepared { policy, seen, parts, dataset, split } = prepared;
        let before = || record(policy, &self.policy).map(|record| record.max_drop).ok();
        let given = allowed(&loaded.spec, self.loss.max_drop, self.loss.max_drift)?;
        let max_loss = given.or_else(before).unwrap_or(MAX_LOSS);
        let pass = PassOptions {
            batch: BATCH,
            workers: self.threads,
            skip: 0,
            images: Some(self.calibration_images),
            on_bad_image: self.reading.images.on_bad_image,
            corruption: None,
        };
        let options = CalibrationOptions {
            settings: self.settings(loaded, policy)?,
            pilot: None,
            max_loss,
            confidence: self.confidence,
            pass,
            elsewhere,
        };
        let choice = calibrate_policy(
            loaded,
            (policy, seen.clone(), &self.target()),
            (&parts.path(), split, dataset),
            &options,
            listener,
        )?;
        Ok((choice, DataNotes::of([&*dataset])))
    }
}

/// What `policy` names.
enum Given {
    /// A policy, and the images that it has seen.
    Policy(Box<AnyPolicy>, SeenImages),
    /// A hand-made method.
    Method(Method),
}

/// What a calibration measures: a policy, and images.
pub struct Prepared {
    /// The policy, which gets the chosen setting and the record.
    pub policy: AnyPolicy,
    /// The images that it has seen.
    seen: SeenImages,
    parts: DataParts,
    /// The images to calibrate on.
    pub dataset: Dataset,
    split: String,
}

impl Prepared {
    /// Checks that a method was not fitted to any of the images to calibrate on.
    fn check_apart(&self, listener: &mut Listener<'_>) -> Result<()> {
        let AnyPolicy::Method(policy) = &self.policy else { return Ok(()) };
        if self.seen == SeenImages::default() {
            return Ok(());
        }
        let all: Vec<usize> = (0..self.dataset.len()).collect();
        let hashes = hashes_at(&self.dataset, &all, &mut listener.steps("hashing images"))?;
        let overlap = hashes.and_then(|hashes| self.seen.overlap(&hashes));
        match overlap.and_then(|overlap| overlap.training) {
            None | Some(0) => Ok(()),
            Some(count) => Err(MeasureError::Part {
                data: self.parts.path(),
                reason: format!(
                    "{} was fitted to {count} of the images of {}, which therefore cannot certify it; name another --split",
                    policy.recipe.name(),
                    self.split
                ),
            }),
        }
    }
}

/// The images that the policy in `folder`, or `universal`, has seen.
fn seen_by(folder: &Path) -> Result<SeenImages> {
    match folder == Path::new(UNIVERSAL) {
        true => Ok(SeenImages::default()),
        false => SeenImages::read(&local(folder, Kind::Policy)?),
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
) -> Result<(AnyPolicy, Choice)> {
    let mut policy = open_policy(folder, loaded)?;
    let seen = seen_by(folder)?;
    let choice = calibrate_policy(loaded, (&mut policy, seen, folder), held_out, options, listener)?;
    Ok((policy, choice))
}

fn calibrate_policy(
    loaded: &Loaded,
    (policy, seen, to): (&mut AnyPolicy, SeenImages, &Path),
    (data, split, dataset): (&str, &str, &Dataset),
    options: &CalibrationOptions<'_>,
    listener: &mut Listener<'_>,
) -> Result<Choice> {
    let answer = listener.follow("calibrating", |progress| {
        calibrate(loaded, policy, (data, split), dataset, options, progress)
    });
    note_reading(dataset, listener);
    let Calibrated { choice, indices } = answer?;
    let seen = match hashes_at(dataset, &indices, &mut listener.steps("hashing images"))? {
        Some(hashes) => seen.calibrated_on(&hashes),
        None => seen.uncalibrated(),
    };
    policy.save(to)?;
    seen.write(to)?;
    Ok(choice)
}
