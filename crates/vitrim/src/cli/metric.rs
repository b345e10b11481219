//! `vitrim train-metric`.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::json;
use vitrim::requests::TrainMetricRequest;
use vitrim::{VitrimError, overlay};
use vitrim_text::shown;
use vitrim_vit::Precision;

use super::{App, interrupt, print};

pub fn run(app: &App, request: &TrainMetricRequest) -> anyhow::Result<ExitCode> {
    let config = request.configuration()?;
    if request.overlay.print_config {
        print::line(overlay::to_toml(&config)?.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(model) = &request.model else {
        return Err(anyhow!("--model and --data are needed to train"));
    };
    let stop = interrupt::listen(app.ranks)?;
    let loaded = app.open(model, Precision::F32)?;
    match app.follow(stop, |listener| request.run(&loaded, &config, app.ranks, listener)) {
        Err(error @ VitrimError::Interrupted(_)) => {
            Ok(app.interrupted(&format!("{error}; run the same command again to go on")))
        }
        Err(error) => Err(error.into()),
        Ok(_) if !app.ranks.is_first() => Ok(ExitCode::SUCCESS),
        Ok(trained) if app.global.json => {
            let notes = &trained.notes;
            print::json(&json!({
                "policy": shown(&trained.policy),
                "read_out": trained.read_out,
                "label_notes": notes.label_notes,
                "layout_notes": notes.layout_notes
            }))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(trained) => {
            let next =
                if trained.read_out == "cost=1" { ", every token stays; calibrate it next" } else { "" };
            print::line(&format!("policy: {}, {}{next}", trained.policy.display(), trained.read_out))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
