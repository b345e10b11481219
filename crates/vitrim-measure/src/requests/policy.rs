//! A policy with its settings.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vitrim_prune::{AnyPolicy, NoPruner, Pruner, parse_hand_made};

use super::as_text;
use crate::calibrate::{
    allowed, choose_cost_from_record, choose_from_record, describe_point, gmacs_at_keep, uncertified_dtype,
};
use crate::error::{MeasureError, Result};
use crate::model::{Loaded, named_method, open_policy};
use crate::progress::Listener;
use crate::statistics::Confidence;

/// A policy, and its read-out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct PolicyArgs {
    /// Policy folder, or hf://owner/name; without one, the dense model runs. `predict` and `visualize` also take a hand-made
    /// method with its keep ratio, as in tome:0.7.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FOLDER"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub policy: Option<PathBuf>,
    /// How probabilities become decisions: sample, threshold=0.6 or top-r=0.7,0.49,0.343; of a hand-made method, its cost as a
    /// share of the dense MACs: cost=0.7 [default: the policy's own].
    #[cfg_attr(feature = "clap", arg(long, value_name = "RULE", requires = "policy"))]
    pub read_out: Option<String>,
    /// Another limit of the accuracy loss, pp, chosen from the calibration record.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "PP",
            allow_negative_numbers = true,
            requires = "policy",
            conflicts_with = "read_out"
        )
    )]
    pub max_drop: Option<f64>,
    /// Another limit of the feature drift, percent (backbones without a classifier).
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "PERCENT",
            allow_negative_numbers = true,
            requires = "policy",
            conflicts_with_all = ["read_out", "max_drop"]
        )
    )]
    pub max_drift: Option<f64>,
    /// Another confidence of the bound, chosen from the calibration record.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "SHARE", requires = "policy", conflicts_with = "read_out")
    )]
    pub confidence: Option<Confidence>,
    /// The mildest setting in the calibration record that costs at most this, whatever its loss, 1e9 MACs per
    /// image.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "GMACS",
            requires = "policy",
            conflicts_with_all = ["read_out", "max_drop", "max_drift", "confidence"]
        )
    )]
    pub gmacs: Option<f64>,
}

/// A policy's cost, given as a keep ratio.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct KeepArgs {
    /// The mildest setting in the calibration record that costs no more than a hand-made method at this keep ratio.
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "RATIO",
            requires = "policy",
            conflicts_with_all = ["read_out", "max_drop", "max_drift", "confidence", "gmacs"]
        )
    )]
    pub keep: Option<f64>,
}

impl PolicyArgs {
    /// Opens the policy, if one is given, and sets it as asked; `keep` is the keep ratio whose cost is requested, if
    /// any.
    ///
    /// # Errors
    /// If the policy does not fit `loaded`, or its record lacks what is requested.
    pub fn open(
        &self,
        keep: Option<f64>,
        loaded: &Loaded,
        listener: &mut Listener<'_>,
    ) -> Result<Option<AnyPolicy>> {
        let Some(folder) = &self.policy else { return Ok(None) };
        let mut policy = open_policy(folder, loaded)?;
        let gmacs = match keep {
            Some(keep) => Some(gmacs_at_keep(&loaded.spec, &policy, keep)?),
            None => self.gmacs,
        };
        if let Some(text) = &self.read_out {
            policy.set(policy.parse_dial(text)?)?;
        } else if let Some(gmacs) = gmacs {
            let point = choose_cost_from_record(&mut policy, folder, gmacs)?;
            listener.note(&describe_point(&loaded.spec, &point)?);
        } else if self.max_drop.is_some() || self.max_drift.is_some() || self.confidence.is_some() {
            let max_loss = allowed(&loaded.spec, self.max_drop, self.max_drift)?;
            let choice = choose_from_record(&mut policy, folder, max_loss, self.confidence)?;
            listener.note(&choice.to_string());
        }
        if self.read_out.is_none()
            && let Some(note) = uncertified_dtype(&policy, folder, loaded.model.weights().precision())
        {
            listener.note(&format!("note: {note}"));
        }
        Ok(Some(policy))
    }

    /// The pruner of single images: the policy, as [`PolicyArgs::open`] reads it, a hand-made method that is named with its
    /// keep ratio, as in `tome:0.7`, or none.
    ///
    /// # Errors
    /// As [`PolicyArgs::open`], or if the method cannot be made for `loaded`.
    pub fn pruner(
        &self,
        keep: Option<f64>,
        loaded: &Loaded,
        listener: &mut Listener<'_>,
    ) -> Result<Box<dyn Pruner>> {
        if let Some(pruner) = self.hand_made(keep, loaded)? {
            return Ok(pruner);
        }
        match self.open(keep, loaded, listener)? {
            Some(policy) => Ok(policy.pruner(&loaded.spec)?),
            None => Ok(Box::new(NoPruner)),
        }
    }

    /// The hand-made method that is named with its keep ratio in place of a policy, if one is.
    ///
    /// # Errors
    /// If it is asked for what only a policy has, or cannot be made for `loaded`.
    pub(super) fn hand_made(&self, keep: Option<f64>, loaded: &Loaded) -> Result<Option<Box<dyn Pruner>>> {
        let named = self.policy.as_deref().filter(|path| named_method(path).is_some());
        if let Some(text) = named.and_then(Path::to_str) {
            let dialled = [self.max_drop, self.max_drift, self.gmacs, keep];
            if self.read_out.is_some() || self.confidence.is_some() || dialled.iter().any(Option::is_some) {
                return Err(MeasureError::Setting(format!(
                    "{text} is a hand-made method, which has no read-out and no calibration record; give its keep ratio \
                     after the colon"
                )));
            }
            let (method, stages, keep) = parse_hand_made(text, &loaded.spec)?;
            return Ok(Some(method.at_shares(&loaded.spec, &stages, &keep)?));
        }
        Ok(None)
    }
}
