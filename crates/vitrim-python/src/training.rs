//! `vitrim.train`: what the command line's `train` does.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::Sender;
use pyo3::prelude::*;
use serde::Serialize;
use vitrim::overlay;
use vitrim::training::{RunImages, Splits, default_out, describe, open_run, saved, weights};
use vitrim_data::OnBadImage;
use vitrim_measure::MeasureError;
use vitrim_measure::calibrate::{BATCH, Calibration, CalibrationOptions, allowed, calibrate, grid, record};
use vitrim_measure::images::DataParts;
use vitrim_measure::model::open_policy;
use vitrim_measure::statistics::Confidence;
use vitrim_measure::{Loaded, Progress};
use vitrim_train::{DeviceChoice, Outcome, Run, RunEvent, RunFolder, Source, TrainConfig, UpdateLog};

use crate::interruptible::{Event, interruptible, send, steps};
use crate::measuring::on_bad_image;
use crate::model::Model;
use crate::plain::{figures, plain};
use crate::refusal::{from_library, refused};

/// What a finished run says.
#[derive(Serialize)]
struct Finished {
    folder: PathBuf,
    policy: PathBuf,
    updates: usize,
    read_out: String,
    calibration: Option<Calibration>,
}

/// A run as it was asked for.
struct Job<'a> {
    model: &'a Model,
    config: TrainConfig,
    data: PathBuf,
    out: PathBuf,
    split: String,
    calibration_split: Option<String>,
    calibration_images: usize,
    confidence: Confidence,
    device: DeviceChoice,
    on_bad_image: OnBadImage,
}

/// Trains a policy and calibrates it.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, out, name, preset, config, set, max_drop, max_drift, confidence, split, calibration_split, calibration_images,
    device, on_bad_image, teller,
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn train<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    out: Option<PathBuf>,
    name: PathBuf,
    preset: &str,
    config: Option<PathBuf>,
    set: Vec<String>,
    max_drop: Option<f64>,
    max_drift: Option<f64>,
    confidence: f64,
    split: String,
    calibration_split: Option<String>,
    calibration_images: usize,
    device: &str,
    on_bad_image: &str,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get();
    let start = TrainConfig::preset(preset).ok_or_else(|| {
        refused(format!("preset={preset:?}: no such preset; use one of {}", TrainConfig::PRESETS.join(", ")))
    })?;
    let mut config = overlay::merge(&start, config.as_deref(), &set).map_err(refused)?;
    if let Some(loss) = allowed(&model.loaded().spec, max_drop, max_drift).map_err(from_library)? {
        config.constraint.max_accuracy_loss = loss;
    }
    config.check(&model.loaded().spec).map_err(|reason| refused(format!("configuration: {reason}")))?;
    let job = Job {
        model,
        config,
        data,
        out: out.unwrap_or_else(|| default_out(&name, preset)),
        split,
        calibration_split,
        calibration_images,
        confidence: Confidence::new(confidence).map_err(refused)?,
        device: device.parse().map_err(refused)?,
        on_bad_image: self::on_bad_image(on_bad_image)?,
    };
    let threads = model.threads().started()?;
    let finished = interruptible(teller, |stop, events| threads.install(|| job.run(stop, events)))?;
    plain(py, &finished)
}

impl Job<'_> {
    fn run(&self, stop: &AtomicBool, events: &Sender<Event>) -> vitrim::Result<Finished> {
        let loaded = self.model.loaded();
        let parts = DataParts::for_backbone(&self.data, loaded)?;
        let splits = Splits { train: &self.split, calibration: self.calibration_split.as_deref() };
        let images = RunImages::open(loaded, &parts, splits, &mut steps(events, "hashing images"))?;
        send(events, Event::Note(images.describe(self.calibration_images)));
        let run_folder = RunFolder::open(&self.out)?;
        send(events, Event::Note(open_run(&run_folder, &self.config)?));
        self.learn(loaded, &images, &run_folder, stop, events)?;

        let folder = self.out.join("policy");
        let mut policy = open_policy(&folder, loaded)?;
        if let (Some(dataset), Some(split)) = (&images.calibration, &self.calibration_split) {
            let options = CalibrationOptions {
                thresholds: grid(),
                pilot: None,
                max_drop: self.config.constraint.max_accuracy_loss,
                confidence: self.confidence,
                images: self.calibration_images,
                batch: BATCH,
                workers: self.model.threads().workers(),
                on_bad_image: self.on_bad_image,
            };
            let progress = &mut steps(events, "calibrating");
            let mut watch = Progress { stop, progress };
            let place = (parts.path(), split);
            let choice = calibrate(loaded, &mut policy, (&place.0, place.1), dataset, &options, &mut watch)?;
            policy.save(&folder)?;
            send(events, Event::Note(choice.to_string()));
        }
        Ok(Finished {
            folder: self.out.clone(),
            updates: self.config.updates,
            read_out: policy.read_out.to_string(),
            calibration: policy.calibration.is_some().then(|| record(&policy, &folder)).transpose()?,
            policy: folder,
        })
    }

    /// The updates that are left.
    fn learn(
        &self,
        loaded: &Loaded,
        images: &RunImages,
        folder: &RunFolder,
        stop: &AtomicBool,
        events: &Sender<Event>,
    ) -> vitrim::Result<()> {
        let source = Source {
            dataset: images.train.clone(),
            transform: loaded.transform.clone(),
            workers: self.model.threads().workers(),
            on_bad_image: self.on_bad_image,
        };
        let config = &self.config;
        let weights = weights(loaded, config)?;
        let run = Run {
            id: &loaded.id,
            weights: weights.as_ref(),
            config,
            source: &source,
            device: self.device,
            folder,
        };
        let mut tell = |event: RunEvent<'_, UpdateLog>| {
            send(
                events,
                match event {
                    RunEvent::Reference(done, all) => {
                        Event::Step { what: "measuring random pruning", done, all }
                    }
                    RunEvent::Entry(log, all) => Event::Entry {
                        unit: "update",
                        done: log.update,
                        all,
                        line: describe(log),
                        figures: figures(log),
                    },
                },
            );
        };
        match vitrim_train::train(&loaded.model, &run, stop, &mut tell)? {
            Outcome::Finished => Ok(()),
            Outcome::Interrupted => {
                let saved = saved(folder.path(), config.updates)?;
                send(events, Event::Note(format!("interrupted: {saved}; the same call goes on")));
                Err(MeasureError::Interrupted.into())
            }
        }
    }
}
