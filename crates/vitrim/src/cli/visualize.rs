//! `vitrim visualize`.

use std::process::ExitCode;

use serde_json::json;
use vitrim_measure::Loaded;
use vitrim_measure::predict::Question;
use vitrim_report::visualize::Pictures;

use super::args::VisualizeArgs;
use super::predict::for_each_image;
use super::{App, policy, print};

pub fn run(app: &App, args: &VisualizeArgs) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::open_in(&args.model, args.size.opening(args.dtype))?;
    let policy = policy::open(app, &args.policy, args.keep.keep, &loaded)?;
    let pruner = policy::pruner(&loaded, policy.as_ref());
    let mut pictures = Pictures::into_folder(&args.out)?;
    for_each_image(
        app,
        &loaded,
        pruner.as_ref(),
        &args.images,
        Question::Classes(1),
        &args.reading,
        |seen| {
            let path = pictures.write(&loaded, seen)?;
            if app.global.json {
                print::json(&json!({ "image": seen.prediction.image, "picture": path }))
            } else {
                print::line(&path.display().to_string())
            }
        },
    )?;
    Ok(ExitCode::SUCCESS)
}
