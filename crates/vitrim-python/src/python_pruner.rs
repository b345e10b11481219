//! A `vitrim.Pruner` written in Python, as the library's trait.

use std::sync::{Arc, Mutex, PoisonError};

use numpy::{PyArray1, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use vitrim_prune::{ImageKey, PruneError, Pruner};
use vitrim_vit::{Reduction, Site, Taps, View, VitError, VitSpec};

use crate::answers::{grid_positions, to_int64};
use crate::pixels::tuple;
use crate::refusal::refused;

/// Holds an exception that was raised while the library, which does not know Python, was running.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<PyErr>>>);

impl Failure {
    /// The exception, if there was one.
    pub fn take(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// A pruner that calls a Python object at every stage, holding the GIL during the call.
pub struct PythonPruner {
    object: Py<PyAny>,
    stages: Vec<usize>,
    failure: Failure,
}

impl PythonPruner {
    /// A pruner that calls `object` before the blocks `stages`.
    pub fn new(object: &Py<PyAny>, stages: &[usize], failure: &Failure) -> Self {
        let object = Python::attach(|py| object.clone_ref(py));
        PythonPruner { object, stages: stages.to_vec(), failure: failure.clone() }
    }

    /// The blocks of `object`'s stages: its attribute `stages`, or the backbone's default.
    ///
    /// # Errors
    /// If they are not ascending blocks of the backbone.
    pub fn stages(object: &Bound<'_, PyAny>, spec: &VitSpec) -> PyResult<Vec<usize>> {
        let given = object.getattr("stages")?;
        if given.is_none() {
            return Ok(spec.default_stages());
        }
        let bad = || {
            refused(format!(
                "{}.stages must be ascending 0-based blocks below {}, such as {:?}",
                object.get_type().qualname().map_or_else(|_| "pruner".to_owned(), |name| name.to_string()),
                spec.depth,
                spec.default_stages()
            ))
        };
        let stages: Vec<usize> = given.extract().map_err(|_| bad())?;
        if stages.windows(2).any(|w| w[0] >= w[1]) || stages.iter().any(|l| *l >= spec.depth) {
            return Err(bad());
        }
        Ok(stages)
    }

    /// The mask that the object returns, `[T]`; prefix tokens stay in any case.
    fn mask(&self, py: Python<'_>, stage: usize, view: &View<'_>) -> PyResult<Vec<bool>> {
        let tokens = PyArray1::from_slice(py, view.tokens).reshape([view.total(), view.dim])?;
        let offsets = to_int64(py, view.offsets);
        let origins = grid_positions(py, view.origins);
        let attention = view.cls_attention.map(|attention| PyArray1::from_slice(py, attention));
        let answer =
            self.object.bind(py).call_method1("decide", (stage, tokens, offsets, origins, attention))?;
        let array = py.import("numpy")?.call_method1("asarray", (answer,))?.cast_into::<PyUntypedArray>()?;
        if !array.dtype().is_equiv_to(&dtype::<bool>(py)) {
            let found = array.dtype();
            return Err(PyTypeError::new_err(format!(
                "Pruner.decide returned {found} values; return bools, [T]"
            )));
        }
        if array.shape() != [view.total()] {
            return Err(PyValueError::new_err(format!(
                "Pruner.decide returned shape {} for {} tokens; return one bool a token, [T]",
                tuple(array.shape()),
                view.total()
            )));
        }
        let mask = array.cast::<PyArray1<bool>>()?.try_readonly()?.as_array().to_vec();
        Ok(mask
            .into_iter()
            .zip(view.origins)
            .map(|(stays, origin)| stays || origin.grid().is_none())
            .collect())
    }
}

impl Pruner for PythonPruner {
    fn sites(&self, _: &VitSpec) -> Vec<(Site, Taps)> {
        self.stages.iter().map(|&block| (Site::input_of(block), Taps::CLS_ATTENTION)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> vitrim_prune::Result<Reduction> {
        let mask = Python::attach(|py| self.mask(py, stage, view)).map_err(|error| {
            self.failure.put(error);
            PruneError::Vit(VitError::Input("the pruner in Python raised an exception".into()))
        })?;
        Ok(Reduction::keep(view.offsets, &mask))
    }

    fn macs(&self, stage: usize, tokens: usize) -> u64 {
        let asked =
            Python::attach(|py| self.object.bind(py).call_method1("macs", (stage, tokens))?.extract::<u64>());
        asked.unwrap_or_else(|error| {
            self.failure.put(error);
            0
        })
    }
}
