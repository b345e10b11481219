//! `vitrim.train`, the counterpart of the command `train`.

use std::path::PathBuf;

use pyo3::prelude::*;
use serde::Serialize;
use vitrim::requests::{OverlayArgs, TrainRequest};
use vitrim_hub::Kind;
use vitrim_measure::calibrate::{Calibration, record};
use vitrim_measure::requests::{DataNotes, LossArgs};
use vitrim_ranks::Ranks;

use crate::downloads::fetch;
use crate::interruptible::interruptible;
use crate::measuring::{confidence, reading};
use crate::model::Model;
use crate::plain::plain;
use crate::refusal::{from_library, refused};

/// The result of a finished run.
#[derive(Serialize)]
struct Finished {
    folder: PathBuf,
    policy: PathBuf,
    updates: usize,
    read_out: String,
    calibration: Option<Calibration>,
    #[serde(flatten)]
    notes: DataNotes,
}

/// Trains a policy and calibrates it.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, out, name, start, preset, config, set, max_drop, max_drift, confidence, split, calibrate,
    calibration_split, calibration_images, device, on_bad_image, label_map, label_order, teller,
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn train<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    out: Option<PathBuf>,
    name: PathBuf,
    start: Option<PathBuf>,
    preset: Option<String>,
    config: Option<PathBuf>,
    set: Vec<String>,
    max_drop: Option<f64>,
    max_drift: Option<f64>,
    confidence: Option<f64>,
    split: Option<String>,
    calibrate: bool,
    calibration_split: Option<String>,
    calibration_images: Option<usize>,
    device: Option<&str>,
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    fetch(py, &data, Kind::Data)?;
    let model = model.get();
    let defaults = TrainRequest::default();
    let request = TrainRequest {
        model: Some(name),
        backbone: model.backbone(),
        data: Some(data),
        from: start,
        out,
        preset: preset.unwrap_or_else(|| defaults.preset.clone()),
        overlay: OverlayArgs { config, set, print_config: false },
        loss: LossArgs { max_drop, max_drift },
        confidence: self::confidence(confidence, defaults.confidence)?,
        device: device.map_or(Ok(defaults.device), str::parse).map_err(refused)?,
        split: split.unwrap_or_else(|| defaults.split.clone()),
        calibration_split: calibration_split.unwrap_or_else(|| defaults.calibration_split.clone()),
        calibration_images: calibration_images.unwrap_or(defaults.calibration_images),
        no_calibrate: !calibrate,
        reading: reading(on_bad_image, label_map, label_order)?,
        threads: model.threads().workers(),
        ..defaults
    };
    let config = request.configuration().map_err(from_library)?;
    let threads = model.threads().for_job()?;
    let finished = interruptible(teller, |listener| {
        threads.install(|| {
            let trained = request.run(model.loaded(), config, &Ranks::alone(), listener)?;
            if let Some(choice) = &trained.choice {
                listener.note(&choice.to_string());
            }
            let calibrated = trained.policy.calibration().is_some();
            Ok(Finished {
                updates: trained.updates,
                read_out: trained.policy.dial().to_string(),
                calibration: calibrated
                    .then(|| record(&trained.policy, &trained.policy_folder))
                    .transpose()?,
                folder: trained.folder,
                policy: trained.policy_folder,
                notes: trained.notes,
            })
        })
    })?;
    plain(py, &finished)
}
