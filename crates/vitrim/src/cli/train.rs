//! `vitrim train`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::json;
use vitrim::requests::{TrainRequest, Trained};
use vitrim::{VitrimError, overlay};
use vitrim_measure::MeasureError;
use vitrim_text::shown;

use super::calibrate::{as_it_was, print};
use super::{App, interrupt, print};

pub fn run(app: &App, request: &TrainRequest) -> anyhow::Result<ExitCode> {
    let config = request.configuration()?;
    if request.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = interrupt::listen(app.ranks)?;
    let open = |model: &Path| app.open(model, request.backbone.opening(request.dtype));
    let trained = match &request.model {
        Some(model) => {
            let loaded = open(model)?;
            app.follow(stop, |listener| request.run(&loaded, config, app.ranks, listener))
        }
        None if request.with.is_empty() => return Err(anyhow!("--model and --data are needed to train")),
        None => {
            let loaded =
                request.with.iter().map(|(model, _)| open(model)).collect::<anyhow::Result<Vec<_>>>()?;
            app.follow(stop, |listener| request.run_on_several(&loaded, config, app.ranks, listener))
        }
    };
    match trained {
        Err(error @ VitrimError::Interrupted(_)) => {
            Ok(app.interrupted(&format!("{error}; run the same command again to go on")))
        }
        Err(VitrimError::Measure(MeasureError::Interrupted)) => {
            Ok(as_it_was(app, &request.out_folder(request.model.as_deref()).join("policy")))
        }
        Err(error) => Err(error.into()),
        Ok(trained) => {
            if app.ranks.is_first() {
                tell(app, &trained)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tell(app: &App, trained: &Trained) -> anyhow::Result<()> {
    let Trained { policy_folder, policy, choice, notes, .. } = trained;
    match choice {
        Some(choice) => print(app, policy_folder, policy, choice, notes),
        None if app.global.json => {
            let policy = shown(policy_folder);
            print::json(&json!({
                "policy": policy,
                "label_notes": notes.label_notes,
                "layout_notes": notes.layout_notes,
                "calibration": null
            }))
        }
        None => print::line(&format!("policy: {}, not calibrated", policy_folder.display())),
    }
}
