//! `vitrim.train`, the counterpart of the command `train`.

use std::path::PathBuf;

use pyo3::prelude::*;
use serde::Serialize;
use vitrim::requests::{OverlayArgs, TrainRequest};
use vitrim_measure::calibrate::{Calibration, record};
use vitrim_measure::requests::LossArgs;

use crate::interruptible::interruptible;
use crate::measuring::{confidence, on_bad_image};
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
}

/// Trains a policy and calibrates it.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, out, name, preset, config, set, max_drop, max_drift, confidence, split, calibrate, calibration_split,
    calibration_images, device, on_bad_image, teller,
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn train<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    out: Option<PathBuf>,
    name: PathBuf,
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
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get();
    let defaults = TrainRequest::default();
    let mut request = TrainRequest {
        model: Some(name),
        backbone: model.backbone(),
        data: Some(data),
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
        threads: model.threads().workers(),
        ..defaults
    };
    request.reading.images.on_bad_image = self::on_bad_image(on_bad_image)?;
    let config = request.configuration().map_err(from_library)?;
    let threads = model.threads().for_job()?;
    let finished = interruptible(teller, |listener| {
        threads.install(|| {
            let trained = request.run(model.loaded(), config, listener)?;
            if let Some(choice) = &trained.choice {
                listener.note(&choice.to_string());
            }
            let calibrated = trained.policy.calibration.is_some();
            Ok(Finished {
                updates: trained.updates,
                read_out: trained.policy.read_out.to_string(),
                calibration: calibrated
                    .then(|| record(&trained.policy, &trained.policy_folder))
                    .transpose()?,
                folder: trained.folder,
                policy: trained.policy_folder,
            })
        })
    })?;
    plain(py, &finished)
}
