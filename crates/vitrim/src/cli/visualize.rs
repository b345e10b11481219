//! `vitrim visualize`.

use std::process::ExitCode;

use serde_json::json;
use vitrim_measure::predict::Question;
use vitrim_measure::requests::{VisualizeRequest, pruner};
use vitrim_report::visualize::Pictures;
use vitrim_text::shown;

use super::predict::for_each_image;
use super::{App, print};

pub fn run(app: &App, request: &VisualizeRequest) -> anyhow::Result<ExitCode> {
    let loaded = app.open(&request.model, request.backbone.opening(request.dtype))?;
    let policy = app.show(|listener| request.policy.open(request.keep.keep, &loaded, listener))?;
    let pruner = pruner(&loaded, policy.as_ref());
    let mut pictures = Pictures::into_folder(&request.out)?;
    for_each_image(
        app,
        &loaded,
        pruner.as_ref(),
        &request.images,
        Question::Classes(1),
        &request.reading,
        |seen| {
            let path = pictures.write(&loaded, seen)?;
            if app.global.json {
                print::json(&json!({ "image": shown(&seen.prediction.image), "picture": shown(&path) }))
            } else {
                print::line(&path.display().to_string())
            }
        },
    )?;
    Ok(ExitCode::SUCCESS)
}
