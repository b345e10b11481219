//! `vitrim.train_metric`, the counterpart of the command `train-metric`.

use std::path::PathBuf;

use pyo3::prelude::*;
use vitrim::requests::{OverlayArgs, TrainMetricRequest};
use vitrim_hub::Kind;
use vitrim_ranks::Ranks;

use crate::downloads::fetch;
use crate::interruptible::interruptible;
use crate::measuring::reading;
use crate::model::Model;
use crate::plain::plain;
use crate::refusal::{from_library, refused};

/// Trains a metric for merging on the model's backbone.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, out, config, set, split, device, on_bad_image, label_map, label_order, teller
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn train_metric<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    out: Option<PathBuf>,
    config: Option<PathBuf>,
    set: Vec<String>,
    split: Option<String>,
    device: Option<&str>,
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    fetch(py, &data, Kind::Data)?;
    let model = model.get();
    let defaults = TrainMetricRequest::default();
    let request = TrainMetricRequest {
        model: Some(PathBuf::from(&model.loaded().origin)),
        data: Some(data),
        split: split.unwrap_or_else(|| defaults.split.clone()),
        out: out.unwrap_or_else(|| defaults.out.clone()),
        device: device.map_or(Ok(defaults.device), str::parse).map_err(refused)?,
        overlay: OverlayArgs { config, set, print_config: false },
        reading: reading(on_bad_image, label_map, label_order)?,
        threads: model.threads().workers(),
        ..defaults
    };
    let config = request.configuration().map_err(from_library)?;
    let threads = model.threads().for_job()?;
    let finished = interruptible(teller, |listener| {
        threads.install(|| request.run(model.loaded(), &config, &Ranks::alone(), listener))
    })?;
    plain(py, &finished)
}
