//! `vitrim.finetune`: what the command line's `finetune` does.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crossbeam_channel::Sender;
use pyo3::prelude::*;
use serde::Serialize;
use vitrim::training::{RunImages, Splits, describe_finetuning, open_run_of_steps};
use vitrim::{VitrimError as LibraryError, overlay};
use vitrim_data::OnBadImage;
use vitrim_measure::MeasureError;
use vitrim_measure::images::DataParts;
use vitrim_measure::model::open_checkpoint;
use vitrim_prune::Policy;
use vitrim_train::finetune::{FinetuneConfig, Finetuning, HeldOut, finetune as run_steps, steps_done};
use vitrim_train::pretrain::WeightType;
use vitrim_train::{DeviceChoice, Outcome, RunFolder};

use crate::interruptible::{Event, interruptible, send, steps};
use crate::measuring::on_bad_image;
use crate::model::Model;
use crate::plain::{figures, plain};
use crate::pruning::Pruning;
use crate::refusal::refused;

/// What a finished run says.
#[derive(Serialize)]
struct Finished {
    folder: PathBuf,
    model: PathBuf,
    policy: Option<PathBuf>,
    held_out: Option<HeldOut>,
}

/// A run as it was asked for.
struct Job<'a> {
    model: &'a Model,
    policy: Option<&'a Policy>,
    config: FinetuneConfig,
    data: PathBuf,
    out: PathBuf,
    split: String,
    held_out_split: String,
    device: DeviceChoice,
    weight_type: WeightType,
    on_bad_image: OnBadImage,
}

/// Fine-tunes the model under its policy; without one, the dense control.
#[pyfunction]
#[pyo3(signature = (model, data, *, out, config, set, split, held_out_split, device, weights, on_bad_image, teller))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn finetune<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    out: PathBuf,
    config: Option<PathBuf>,
    set: Vec<String>,
    split: String,
    held_out_split: String,
    device: &str,
    weights: &str,
    on_bad_image: &str,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get();
    let pruning = model.pruning();
    let policy = match &*pruning {
        Pruning::Dense => None,
        Pruning::Learned { policy, .. } => Some(policy.as_ref()),
        Pruning::HandMade { .. } | Pruning::Python { .. } => {
            return Err(refused(
                "finetune lets a backbone learn under a trained policy, or, as the control, without one; load the \
                 model with policy=\"path/to/policy\", or without",
            ));
        }
    };
    let config = overlay::merge(&FinetuneConfig::default(), config.as_deref(), &set).map_err(refused)?;
    config.check().map_err(|reason| refused(format!("configuration: {reason}")))?;
    let job = Job {
        model,
        policy,
        config,
        data,
        out,
        split,
        held_out_split,
        device: device.parse().map_err(refused)?,
        weight_type: weights.parse().map_err(refused)?,
        on_bad_image: self::on_bad_image(on_bad_image)?,
    };
    let threads = model.threads().started()?;
    let finished = interruptible(teller, |stop, events| threads.install(|| job.run(stop, events)))?;
    plain(py, &finished)
}

impl Job<'_> {
    fn run(&self, stop: &AtomicBool, events: &Sender<Event>) -> vitrim::Result<Finished> {
        let (loaded, config, out) = (self.model.loaded(), &self.config, &*self.out);
        let checkpoint = open_checkpoint(Path::new(&loaded.origin), None)?;
        if checkpoint.spec.img_size != loaded.spec.img_size {
            return Err(LibraryError::Setting(format!(
                "{}: fine-tuned weights are of the checkpoint's own size; load it without img_size",
                loaded.origin
            )));
        }
        let parts = DataParts::for_backbone(&self.data, loaded)?;
        let splits = Splits { train: &self.split, calibration: Some(&self.held_out_split) };
        let found = RunImages::open(loaded, &parts, splits, &mut steps(events, "hashing images"))?;
        let held_out = found.calibration.as_ref().expect("asked for");
        send(events, Event::Note(found.describe_held_out(config.held_out_images)));
        let toml = overlay::to_toml(config).map_err(|error| LibraryError::Setting(error.to_string()))?;
        let folder = RunFolder::open(out)?;
        if let Some(line) = open_run_of_steps(&folder, &toml, steps_done(out)?, config.steps())? {
            send(events, Event::Note(line));
        }
        let run = Finetuning {
            config,
            checkpoint: &checkpoint,
            policy: self.policy,
            train: &found.train,
            held_out,
            transform: &loaded.transform,
            workers: self.model.threads().workers(),
            on_bad_image: self.on_bad_image,
            device: self.device,
            threads: rayon::current_num_threads(),
            weight_type: self.weight_type,
            folder: &folder,
        };
        let mut last = None;
        let (outcome, best) = run_steps(&run, stop, &mut |log, all| {
            last = log.held_out.or(last);
            let line = describe_finetuning(log, last);
            send(events, Event::Entry { unit: "step", done: log.step, all, line, figures: figures(log) });
        })?;
        if outcome == Outcome::Interrupted {
            let (done, all) = (steps_done(out)?.unwrap_or(0), config.steps());
            let line = format!("interrupted: step {done} of {all} is saved in {}", out.display());
            send(events, Event::Note(format!("{line}; the same call goes on")));
            return Err(MeasureError::Interrupted.into());
        }
        Ok(Finished {
            model: out.join("model"),
            policy: self.policy.map(|_| out.join("policy")),
            held_out: best,
            folder: self.out.clone(),
        })
    }
}
