//! `vitrim.finetune`, the counterpart of the command `finetune`.

use std::path::PathBuf;

use pyo3::prelude::*;
use vitrim::requests::{BackboneRunArgs, FinetuneRequest, OverlayArgs};
use vitrim_hub::Kind;
use vitrim_measure::requests::PolicyArgs;
use vitrim_ranks::Ranks;

use crate::downloads::fetch;
use crate::interruptible::interruptible;
use crate::measuring::reading;
use crate::model::Model;
use crate::plain::plain;
use crate::pruning::Pruning;
use crate::refusal::{from_library, refused};

/// Fine-tunes the model under its policy; without one, the dense control.
#[pyfunction]
#[pyo3(signature = (
    model, data, *, out, config, set, split, held_out_split, device, weights, on_bad_image, label_map, label_order, teller
))]
#[expect(clippy::too_many_arguments, reason = "they are the command line's flags, by keyword")]
pub fn finetune<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    data: PathBuf,
    out: Option<PathBuf>,
    config: Option<PathBuf>,
    set: Vec<String>,
    split: Option<String>,
    held_out_split: Option<String>,
    device: Option<&str>,
    weights: Option<&str>,
    on_bad_image: Option<&str>,
    label_map: Option<PathBuf>,
    label_order: Option<&str>,
    teller: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    fetch(py, &data, Kind::Data)?;
    let model = model.get();
    let pruning = model.pruning();
    let (policy, folder) = match &*pruning {
        Pruning::Dense => (None, None),
        Pruning::Learned { policy, folder, .. } => (Some(policy.as_ref()), Some(folder.clone())),
        Pruning::HandMade { .. } | Pruning::Python { .. } => {
            return Err(refused(
                "finetune lets a backbone learn under a trained policy, or, as the control, without one; load the \
                 model with policy=\"path/to/policy\", or without",
            ));
        }
    };
    let (defaults, run) = (FinetuneRequest::default(), BackboneRunArgs::default());
    let request = FinetuneRequest {
        model: Some(PathBuf::from(&model.loaded().origin)),
        policy: PolicyArgs { policy: folder, ..PolicyArgs::default() },
        dense: policy.is_none(),
        data: Some(data),
        out: out.unwrap_or_else(|| defaults.out.clone()),
        run: BackboneRunArgs {
            overlay: OverlayArgs { config, set, print_config: false },
            device: device.map_or(Ok(run.device), str::parse).map_err(refused)?,
            weights: weights.map_or(Ok(run.weights), str::parse).map_err(refused)?,
            split: split.unwrap_or_else(|| run.split.clone()),
            held_out_split: held_out_split.unwrap_or_else(|| run.held_out_split.clone()),
            ..run
        },
        reading: reading(on_bad_image, label_map, label_order)?,
        threads: model.threads().workers(),
        ..defaults
    };
    let config = request.configuration().map_err(from_library)?;
    config.check().map_err(|reason| refused(format!("configuration: {reason}")))?;
    let threads = model.threads().for_job()?;
    let finished = interruptible(teller, |listener| {
        threads.install(|| request.run(model.loaded(), policy, &config, &Ranks::alone(), listener))
    })?;
    plain(py, &finished)
}
