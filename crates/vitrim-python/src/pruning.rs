//! Who decides who stays: nobody, a trained policy, a hand-made method, or a pruner written in Python.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use vitrim_measure::Loaded;
use vitrim_measure::calibrate::{
    allowed, choose_cost_from_record, choose_from_record, describe_point, gmacs_at_keep, uncertified_dtype,
};
use vitrim_measure::model::open_policy;
use vitrim_measure::statistics::Confidence;
use vitrim_prune::Method;
use vitrim_prune::parse_hand_made;
use vitrim_prune::{LearnedPruner, NoPruner, Policy, Pruner};
use vitrim_vit::{Precision, VitSpec};

use crate::python_pruner::{Failure, PythonPruner};
use crate::refusal::{from_library, refused};

/// What `policy=` came to.
pub enum Pruning {
    /// The dense model.
    Dense,
    /// A trained policy, from this folder.
    Learned { policy: Box<Policy>, folder: PathBuf },
    /// A hand-made method at a keep profile.
    HandMade { method: Method, stages: Vec<usize>, keep: Vec<f64> },
    /// A `vitrim.Pruner`, with the blocks that it acts before.
    Python { object: Py<PyAny>, stages: Vec<usize> },
}

/// Which point of a policy's calibration record is asked for.
pub struct Dial {
    /// Drop that may be spent, pp.
    pub max_drop: Option<f64>,
    /// Drift that may be spent, percent.
    pub max_drift: Option<f64>,
    /// How sure to be of it.
    pub confidence: Option<f64>,
    /// The cost of a hand-made method at this keep ratio.
    pub keep: Option<f64>,
    /// The cost, 1e9 MACs an image.
    pub gmacs: Option<f64>,
}

impl Pruning {
    /// Reads what was given as `policy`: nothing, a policy folder, a hand-made method by name with its keep ratio, or a
    /// `vitrim.Pruner`.
    ///
    /// # Errors
    /// If it is none of these, or does not fit `loaded`.
    pub fn of(given: Option<&Bound<'_, PyAny>>, loaded: &Loaded) -> PyResult<Self> {
        let Some(given) = given else { return Ok(Pruning::Dense) };
        let base = given.py().import("vitrim.pruner")?.getattr("Pruner")?;
        if given.is_instance(&base)? {
            let stages = PythonPruner::stages(given, &loaded.spec)?;
            return Ok(Pruning::Python { object: given.clone().unbind(), stages });
        }
        let Ok(folder) = given.extract::<PathBuf>() else {
            let name = given.get_type().qualname()?;
            return Err(PyTypeError::new_err(format!(
                "policy is of type {name}; give a policy folder, a method such as \"cls-attention:0.7\", an instance \
                 of a subclass of vitrim.Pruner, or None for the dense model"
            )));
        };
        // A method's name is no folder, unless somebody has one of that name.
        if let Ok(text) = given.extract::<String>()
            && !folder.exists()
            && Method::all().any(|method| text.split(':').next() == Some(method.name()))
        {
            let (method, stages, keep) = parse_hand_made(&text, &loaded.spec).map_err(from_library)?;
            return Ok(Pruning::HandMade { method, stages, keep });
        }
        let policy = given.py().detach(|| open_policy(&folder, loaded)).map_err(from_library)?;
        Ok(Pruning::Learned { policy: Box::new(policy), folder })
    }

    /// The pruner of one call; what a pruner in Python raises goes to `failure`.
    ///
    /// # Errors
    /// Never for what [`Pruning::of`] has accepted.
    pub fn pruner(&self, spec: &VitSpec, failure: &Failure) -> vitrim::Result<Box<dyn Pruner>> {
        Ok(match self {
            Pruning::Dense => Box::new(NoPruner),
            Pruning::Learned { policy, .. } => Box::new(LearnedPruner::new(spec, policy)),
            Pruning::HandMade { method, stages, keep } => method.at_shares(spec, stages, keep)?,
            Pruning::Python { object, stages } => Box::new(PythonPruner::new(object, stages, failure)),
        })
    }

    /// In one line.
    pub fn describe(&self) -> String {
        match self {
            Pruning::Dense => "none".to_owned(),
            Pruning::Learned { policy, folder } => {
                format!("{}, read out by {}", folder.display(), policy.read_out)
            }
            Pruning::HandMade { method, keep, .. } => {
                let keep: Vec<String> = keep.iter().map(|k| format!("{k:.3}")).collect();
                format!("{method}:{}", keep.join(","))
            }
            Pruning::Python { object, .. } => Python::attach(|py| {
                object.bind(py).get_type().qualname().map_or_else(|_| "?".to_owned(), |name| name.to_string())
            }),
        }
    }

    /// The blocks that it acts before.
    pub fn stages(&self) -> Vec<usize> {
        match self {
            Pruning::Dense => Vec::new(),
            Pruning::Learned { policy, .. } => policy.stages.clone(),
            Pruning::HandMade { stages, .. } | Pruning::Python { stages, .. } => stages.clone(),
        }
    }

    /// What to tell whoever runs it in `precision`.
    pub fn warning(&self, precision: Precision) -> Option<String> {
        match self {
            Pruning::Learned { policy, folder } => uncertified_dtype(policy, folder, precision),
            _ => None,
        }
    }

    /// Another point of the policy's calibration record, and what it is, in one line.
    ///
    /// # Errors
    /// If this is no calibrated policy, or `dial` asks for nothing, for two things, or for what the record lacks.
    pub fn dialled(&self, dial: &Dial, spec: &VitSpec) -> PyResult<(Pruning, String)> {
        let Pruning::Learned { policy, folder } = self else {
            return Err(refused(format!(
                "only a calibrated policy can be dialled, and this model's is: {}; load it again with \
                 policy=\"path/to/policy\"",
                self.describe()
            )));
        };
        let lost = dial.max_drop.is_some() || dial.max_drift.is_some() || dial.confidence.is_some();
        if [lost, dial.keep.is_some(), dial.gmacs.is_some()].iter().filter(|asked| **asked).count() != 1 {
            return Err(refused(
                "dial asks for one thing: max_drop or max_drift (with or without confidence), keep or gmacs",
            ));
        }
        let mut policy = policy.clone();
        let answer = if lost {
            let max_drop = allowed(spec, dial.max_drop, dial.max_drift).map_err(from_library)?;
            let confidence = dial.confidence.map(Confidence::new).transpose().map_err(refused)?;
            choose_from_record(&mut policy, folder, max_drop, confidence).map_err(from_library)?.to_string()
        } else {
            let gmacs = match dial.keep {
                Some(keep) => gmacs_at_keep(spec, &policy, keep).map_err(from_library)?,
                None => dial.gmacs.unwrap_or_default(),
            };
            let point = choose_cost_from_record(&mut policy, folder, gmacs).map_err(from_library)?;
            describe_point(spec, &point).map_err(from_library)?
        };
        Ok((Pruning::Learned { policy, folder: folder.clone() }, answer))
    }
}
