//! vitrim in Python.
//!
//! This crate only converts: arrays come in (`pixels`, `images`), the library of the command line does the work with
//! the GIL released, and arrays or plain objects go out (`answers`, `plain`). `model` is a loaded backbone with its
//! `threads` and its pruner (`pruning`, `python_pruner`), and can be pickled (`lasting`). `training`, `finetuning` and
//! `measuring` are the long jobs: each fills a request of the library, and `python_call` writes the Python statement of
//! the same request. Ctrl-C stops computations and jobs at a safe point (`interruptible`), and ends
//! downloads (`downloads`). The Python package is in `python/vitrim`.

mod answers;
mod checkpoint;
mod downloads;
mod finetuning;
mod images;
mod interruptible;
mod lasting;
mod measuring;
mod metric_training;
mod model;
mod pixels;
mod plain;
mod pruning;
mod python_call;
mod python_pruner;
mod refusal;
mod threads;
mod training;

use pyo3::prelude::*;

/// The compiled part of the package `vitrim`; the documentation is in the package.
#[pymodule]
mod _vitrim {
    #[pymodule_export]
    use crate::answers::{ClassProbability, Prediction, Survivors, Tokens};
    #[pymodule_export]
    use crate::checkpoint::{timm_questions, write_checkpoint};
    use crate::downloads::watch;
    #[pymodule_export]
    use crate::finetuning::finetune;
    #[pymodule_export]
    use crate::measuring::{Share, calibrate, compare, evaluate, report};
    #[pymodule_export]
    use crate::metric_training::train_metric;
    #[pymodule_export]
    use crate::model::{Model, load};
    #[pymodule_export]
    use crate::refusal::VitrimError;
    #[pymodule_export]
    use crate::training::train;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        watch();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
