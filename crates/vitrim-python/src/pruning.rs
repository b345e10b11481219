//! The pruner of a model: none, a policy, a hand-made method or a Python class.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use serde_json::Value;
use vitrim_hub::Kind;
use vitrim_measure::Loaded;
use vitrim_measure::calibrate::{
    allowed, choose_cost_from_record, choose_from_record, describe_point, gmacs_at_keep, uncertified_dtype,
};
use vitrim_measure::model::open_policy;
use vitrim_measure::statistics::Confidence;
use vitrim_prune::Method;
use vitrim_prune::parse_hand_made;
use vitrim_prune::{AnyPolicy, NoPruner, Pruner};
use vitrim_vit::{Precision, VitSpec};

use crate::downloads::fetch;
use crate::lasting::lasting;
use crate::plain::plain;
use crate::python_pruner::{Failure, PythonPruner};
use crate::refusal::{from_library, refused};

/// The pruner that `policy=` names.
pub enum Pruning {
    /// The dense model.
    Dense,
    /// A policy, its folder as it was given and as it can be opened from everywhere, and the point of its record
    /// to which it was dialled.
    Learned { policy: Box<AnyPolicy>, folder: PathBuf, place: PathBuf, dialled: Option<Dial> },
    /// A hand-made method at a keep profile.
    HandMade { method: Method, stages: Vec<usize>, keep: Vec<f64> },
    /// A `vitrim.Pruner`, with the blocks of its stages.
    Python { object: Py<PyAny>, stages: Vec<usize> },
}

/// The requested point of a policy's calibration record.
#[derive(Clone)]
pub struct Dial {
    /// Loss of top-1 that is allowed, pp.
    pub max_drop: Option<f64>,
    /// Drift that is allowed, percent.
    pub max_drift: Option<f64>,
    /// Confidence of the bound.
    pub confidence: Option<f64>,
    /// The cost of a hand-made method at this keep ratio.
    pub keep: Option<f64>,
    /// The cost, 1e9 MACs per image.
    pub gmacs: Option<f64>,
}

impl Pruning {
    /// Reads the argument `policy`: None, a policy folder, a hand-made method by name with its keep ratio, or a
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
        // The name of a method is not read as a folder, unless a folder of that name exists.
        if let Ok(text) = given.extract::<String>()
            && !folder.exists()
            && Method::all().any(|method| text.split(':').next() == Some(method.name()))
        {
            let (method, stages, keep) = parse_hand_made(&text, &loaded.spec).map_err(from_library)?;
            return Ok(Pruning::HandMade { method, stages, keep });
        }
        fetch(given.py(), &folder, Kind::Policy)?;
        let policy = given.py().detach(|| open_policy(&folder, loaded)).map_err(from_library)?;
        Self::learned(policy, folder)
    }

    /// `policy`, read from `folder`, at the point at which it was saved.
    ///
    /// # Errors
    /// If the working folder cannot be told.
    pub fn learned(policy: AnyPolicy, folder: PathBuf) -> PyResult<Self> {
        let place = lasting(&folder)?;
        Ok(Pruning::Learned { policy: Box::new(policy), folder, place, dialled: None })
    }

    /// The pruner of one call; exceptions of a pruner in Python go to `failure`.
    ///
    /// # Errors
    /// Never for values that [`Pruning::of`] has accepted.
    pub fn pruner(&self, spec: &VitSpec, failure: &Failure) -> vitrim::Result<Box<dyn Pruner>> {
        Ok(match self {
            Pruning::Dense => Box::new(NoPruner),
            Pruning::Learned { policy, .. } => policy.pruner(spec)?,
            Pruning::HandMade { method, stages, keep } => method.at_shares(spec, stages, keep)?,
            Pruning::Python { object, stages } => Box::new(PythonPruner::new(object, stages, failure)),
        })
    }

    /// A description in one line.
    pub fn describe(&self) -> String {
        match self {
            Pruning::Dense => "none".to_owned(),
            Pruning::Learned { policy, folder, .. } => {
                format!("{}, read out by {}", folder.display(), policy.dial())
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

    /// The argument `policy`, and the arguments of the last call of `dial`, as keywords.
    pub fn keywords(&self) -> (Option<Value>, Vec<(&'static str, Value)>) {
        match self {
            Pruning::Dense | Pruning::Python { .. } => (None, Vec::new()),
            Pruning::HandMade { method, keep, .. } => {
                let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
                (Some(Value::from(format!("{method}:{}", keep.join(",")))), Vec::new())
            }
            Pruning::Learned { folder, dialled, .. } => {
                let asked = dialled.as_ref().map_or(Vec::new(), |dial| {
                    let Dial { max_drop, max_drift, confidence, keep, gmacs } = dial;
                    let keywords = [
                        ("max_drop", max_drop),
                        ("max_drift", max_drift),
                        ("confidence", confidence),
                        ("keep", keep),
                        ("gmacs", gmacs),
                    ];
                    let given = keywords.into_iter().filter_map(|(name, value)| Some((name, (*value)?)));
                    given.map(|(name, value)| (name, Value::from(value))).collect()
                });
                (Some(Value::from(folder.to_string_lossy())), asked)
            }
        }
    }

    /// What the argument `policy` must be for the same pruner in another process, and the keywords of the last call of
    /// `dial`.
    ///
    /// # Errors
    /// If Python is out of memory.
    pub fn lasting<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (named, dialled) = self.keywords();
        let policy = match self {
            Pruning::Python { object, .. } => object.bind(py).clone(),
            Pruning::Learned { place, .. } => place.into_pyobject(py)?.into_any(),
            Pruning::Dense | Pruning::HandMade { .. } => plain(py, &named)?,
        };
        let dialled: serde_json::Map<String, Value> =
            dialled.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok((policy, plain(py, &dialled)?))
    }

    /// A copy; of a pruner in Python, a deep one.
    ///
    /// # Errors
    /// If the object cannot be copied.
    pub fn deep_copy(&self, memo: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(match self {
            Pruning::Dense => Pruning::Dense,
            Pruning::Learned { policy, folder, place, dialled } => Pruning::Learned {
                policy: policy.clone(),
                folder: folder.clone(),
                place: place.clone(),
                dialled: dialled.clone(),
            },
            Pruning::HandMade { method, stages, keep } => {
                Pruning::HandMade { method: *method, stages: stages.clone(), keep: keep.clone() }
            }
            Pruning::Python { object, stages } => {
                let deepcopy = memo.py().import("copy")?.getattr("deepcopy")?;
                let object = deepcopy.call1((object.bind(memo.py()), memo))?.unbind();
                Pruning::Python { object, stages: stages.clone() }
            }
        })
    }

    /// The blocks of its stages, in a backbone of geometry `spec`.
    ///
    /// # Errors
    /// As [`AnyPolicy::sites`].
    pub fn stages(&self, spec: &VitSpec) -> vitrim::Result<Vec<usize>> {
        Ok(match self {
            Pruning::Dense => Vec::new(),
            Pruning::Learned { policy, .. } => {
                policy.sites(spec)?.into_iter().map(|site| site.block).collect()
            }
            Pruning::HandMade { stages, .. } | Pruning::Python { stages, .. } => stages.clone(),
        })
    }

    /// The warning for a run in `precision`, if any.
    pub fn warning(&self, precision: Precision) -> Option<String> {
        match self {
            Pruning::Learned { policy, folder, .. } => uncertified_dtype(policy, folder, precision),
            _ => None,
        }
    }

    /// Another point of the policy's calibration record, and its description in one line.
    ///
    /// # Errors
    /// If this is not a calibrated policy, or `dial` requests no point, two points, or one that is not in the record.
    pub fn dialled(&self, dial: &Dial, spec: &VitSpec) -> PyResult<(Pruning, String)> {
        let Pruning::Learned { policy, folder, place, .. } = self else {
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
        let (folder, place) = (folder.clone(), place.clone());
        Ok((Pruning::Learned { policy, folder, place, dialled: Some(dial.clone()) }, answer))
    }
}
