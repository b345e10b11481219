//! What a policy folder holds: a learned policy, or a method that is set to a cost.

use std::fmt;
use std::path::Path;

use vitrim_vit::{At, Site, VitSpec};

use super::file::{self, BackboneId, Policy};
use super::learned::LearnedPruner;
use super::method::MethodPolicy;
use super::read_out::ReadOut;
use super::universal::Universal;
use crate::pruner::{PruneError, Pruner, Result};

/// A policy of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyPolicy {
    /// A learned one.
    Learned(Box<Policy>),
    /// A method that is set to a cost: a hand-made one, or merging by a learned metric.
    Method(MethodPolicy),
}

/// What a policy is set to: how many tokens leave.
#[derive(Clone, Debug, PartialEq)]
pub enum Dial {
    /// The rule by which a learned policy's probabilities become decisions.
    ReadOut(ReadOut),
    /// The MACs of a method, as a share of the dense ones.
    Cost(f64),
}

impl Dial {
    /// The number that names this dial on a measured front: a threshold or a cost. `None` for read-outs without a threshold.
    pub fn setting(&self) -> Option<f64> {
        match self {
            Dial::ReadOut(ReadOut::Threshold { threshold }) => Some(*threshold),
            Dial::ReadOut(_) => None,
            Dial::Cost(share) => Some(*share),
        }
    }

    /// Whether decisions are drawn at random.
    pub fn is_random(&self) -> bool {
        matches!(self, Dial::ReadOut(ReadOut::Sample { .. }))
    }
}

/// The text that [`AnyPolicy::parse_dial`] reads, without the seed of a sample.
impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dial::ReadOut(read_out) => read_out.fmt(f),
            Dial::Cost(share) => write!(f, "cost={share}"),
        }
    }
}

impl From<Policy> for AnyPolicy {
    fn from(policy: Policy) -> Self {
        AnyPolicy::Learned(Box::new(policy))
    }
}

impl AnyPolicy {
    /// Reads the policy in `folder` for the backbone `id` of geometry `spec`: one that is for it, or a learned one for every
    /// backbone ([`Universal::open`]).
    ///
    /// # Errors
    /// As [`AnyPolicy::load`] and [`Universal::bind`], or if the policy is for another backbone.
    pub fn open(folder: &Path, spec: &VitSpec, id: &BackboneId) -> Result<Self> {
        if let Some(universal) = Universal::open(folder)? {
            return Ok(universal.bind(spec, id)?.into());
        }
        let policy = Self::load(folder)?;
        policy.backbone().check(folder, id)?;
        Ok(policy)
    }

    /// Reads a folder that [`AnyPolicy::save`] wrote, or [`Policy::save`].
    ///
    /// # Errors
    /// If the folder is missing, damaged, or of a version that this code does not read; or if it states what could not run
    /// or be held ([`limits`](crate::limits)).
    pub fn load(folder: &Path) -> Result<Self> {
        Ok(match MethodPolicy::open(folder)? {
            Some(policy) => AnyPolicy::Method(policy),
            None => Policy::load(folder)?.into(),
        })
    }

    /// Writes the folder, durably, as [`Policy::save`] does.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let [(_, header), (_, weights)] = self.encoded();
        Ok(file::files(folder).replace(&header, &weights)?)
    }

    /// The offsets of a learned policy's stages ([`Policy::offsets`]); none of a method's.
    pub fn offsets(&self) -> &[f32] {
        match self {
            AnyPolicy::Learned(policy) => &policy.offsets,
            AnyPolicy::Method(_) => &[],
        }
    }

    /// Replaces the offsets of a learned policy's stages.
    #[must_use]
    pub fn with_offsets(mut self, offsets: &[f32]) -> Self {
        if let AnyPolicy::Learned(policy) = &mut self {
            policy.offsets = offsets.to_vec();
        }
        self
    }

    /// Name and content of the files that [`AnyPolicy::save`] writes: the header, then the weights.
    pub fn encoded(&self) -> [(&'static str, Vec<u8>); 2] {
        match self {
            AnyPolicy::Learned(policy) => policy.encoded(),
            AnyPolicy::Method(policy) => policy.encoded(),
        }
    }

    /// A hash of everything that determines its decisions.
    pub fn identity(&self) -> String {
        match self {
            AnyPolicy::Learned(policy) => policy.identity(),
            AnyPolicy::Method(policy) => policy.identity(),
        }
    }

    /// The learned policy, read from `folder`, for what needs an actor: training.
    ///
    /// # Errors
    /// [`PruneError::BadPolicy`] for a method, which has none.
    pub fn learned(&self, folder: &Path) -> Result<&Policy> {
        match self {
            AnyPolicy::Learned(policy) => Ok(policy),
            AnyPolicy::Method(policy) => Err(file::no_actor(folder, policy.recipe.name())),
        }
    }

    /// The backbone that the policy is for.
    pub fn backbone(&self) -> &BackboneId {
        match self {
            AnyPolicy::Learned(policy) => &policy.backbone,
            AnyPolicy::Method(policy) => &policy.backbone,
        }
    }

    /// What the policy is set to.
    pub fn dial(&self) -> Dial {
        match self {
            AnyPolicy::Learned(policy) => Dial::ReadOut(policy.read_out.clone()),
            AnyPolicy::Method(policy) => Dial::Cost(policy.cost),
        }
    }

    /// Sets the policy to `dial`.
    ///
    /// # Errors
    /// [`PruneError::Setting`] if policies of this kind have no such dial.
    pub fn set(&mut self, dial: Dial) -> Result<()> {
        match (self, dial) {
            (AnyPolicy::Learned(policy), Dial::ReadOut(read_out)) => policy.read_out = read_out,
            (AnyPolicy::Method(policy), Dial::Cost(share)) => policy.cost = share,
            (policy, dial) => return Err(policy.lacks(&dial)),
        }
        Ok(())
    }

    /// Reads a dial of this policy: `sample`, `threshold=0.6` or `top-r=0.7,0.49,0.343` of a learned one, `cost=0.7` of a
    /// hand-made method.
    ///
    /// # Errors
    /// [`PruneError::Setting`] for anything else.
    pub fn parse_dial(&self, text: &str) -> Result<Dial> {
        match self {
            AnyPolicy::Learned(policy) => Ok(Dial::ReadOut(ReadOut::parse(text, policy.stages.len())?)),
            AnyPolicy::Method(policy) => {
                let share = text.strip_prefix("cost=").and_then(|share| share.parse::<f64>().ok());
                share.filter(|share| (0.0..=1.0).contains(share)).map(Dial::Cost).ok_or_else(|| {
                    PruneError::Setting(format!(
                        "--read-out {text}: {} is set to a share of the dense MACs; give cost=0.7",
                        policy.recipe.name()
                    ))
                })
            }
        }
    }

    /// The dial that `setting` names on a front of this policy: a threshold or a cost.
    pub fn at_setting(&self, setting: f64) -> Dial {
        match self {
            AnyPolicy::Learned(_) => Dial::ReadOut(ReadOut::Threshold { threshold: setting }),
            AnyPolicy::Method(_) => Dial::Cost(setting),
        }
    }

    /// What [`AnyPolicy::at_setting`] takes, for the header of a column.
    pub fn setting_name(&self) -> &'static str {
        match self {
            AnyPolicy::Learned(_) => "threshold",
            AnyPolicy::Method(_) => "cost",
        }
    }

    /// The setting at which every token stays.
    pub fn keeping_all(&self) -> f64 {
        match self {
            AnyPolicy::Learned(_) => 0.0,
            AnyPolicy::Method(_) => 1.0,
        }
    }

    /// Whether an image that keeps all of its tokens at one setting keeps them at every milder one.
    pub fn is_nested(&self) -> bool {
        matches!(self, AnyPolicy::Learned(_))
    }

    /// The pruner for a backbone of geometry `spec`, as the policy is set.
    ///
    /// # Errors
    /// As [`AnyPolicy::pruner_at`].
    pub fn pruner(&self, spec: &VitSpec) -> Result<Box<dyn Pruner>> {
        self.pruner_at(spec, &self.dial())
    }

    /// The pruner for a backbone of geometry `spec`, set to `dial`.
    ///
    /// # Errors
    /// If policies of this kind have no such dial, or the method does not fit the backbone.
    pub fn pruner_at(&self, spec: &VitSpec, dial: &Dial) -> Result<Box<dyn Pruner>> {
        match (self, dial) {
            (AnyPolicy::Learned(policy), Dial::ReadOut(read_out)) => {
                Ok(Box::new(LearnedPruner::new(spec, policy).with_read_out(read_out.clone())))
            }
            (AnyPolicy::Method(policy), Dial::Cost(share)) => policy.at_cost(spec, *share),
            (policy, dial) => Err(policy.lacks(dial)),
        }
    }

    fn lacks(&self, dial: &Dial) -> PruneError {
        PruneError::Setting(format!(
            "{dial} is no setting of this policy, which has a {}",
            self.setting_name()
        ))
    }

    /// The sites where the policy acts, unless it is set to keep everything.
    ///
    /// # Errors
    /// As [`AnyPolicy::pruner_at`].
    pub fn sites(&self, spec: &VitSpec) -> Result<Vec<Site>> {
        Ok(match self {
            AnyPolicy::Learned(policy) => {
                policy.stages.iter().map(|&block| policy.departure.site(block)).collect()
            }
            AnyPolicy::Method(policy) => {
                policy.at_cost(spec, 0.0)?.sites(spec).into_iter().map(|(site, _)| site).collect()
            }
        })
    }

    /// The blocks before which a method that drops tokens acts in place of this policy, each once and within the network.
    ///
    /// # Errors
    /// As [`AnyPolicy::sites`].
    pub fn drop_stages(&self, spec: &VitSpec) -> Result<Vec<usize>> {
        let next = |site: Site| site.block + usize::from(site.at == At::AfterAttention);
        Ok(self.sites(spec)?.into_iter().map(next).filter(|block| *block < spec.depth).collect())
    }

    /// The calibration record, as the calibrator wrote it.
    pub fn calibration(&self) -> Option<&serde_json::Value> {
        match self {
            AnyPolicy::Learned(policy) => policy.calibration.as_ref(),
            AnyPolicy::Method(policy) => policy.calibration.as_ref(),
        }
    }

    /// Replaces the calibration record.
    pub fn set_calibration(&mut self, record: Option<serde_json::Value>) {
        match self {
            AnyPolicy::Learned(policy) => policy.calibration = record,
            AnyPolicy::Method(policy) => policy.calibration = record,
        }
    }
}
