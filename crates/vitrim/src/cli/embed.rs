//! `vitrim embed`.

use std::process::ExitCode;

use vitrim_measure::MeasureError;
use vitrim_measure::embed::Embedded;
use vitrim_measure::requests::{Answers, EmbedRequest};

use super::{App, interrupt, print};

pub fn run(app: &App, request: &EmbedRequest) -> anyhow::Result<ExitCode> {
    let stop = interrupt::listen(app.ranks)?;
    let loaded = app.open(&request.model, request.backbone.opening(request.dtype))?;
    if request.answer != Some(Answers::Features)
        && let Some(assumption) = loaded.assumption()
    {
        app.reporter.note(&format!("note: {assumption}"));
    }
    match app.follow(stop, |listener| request.run(&loaded, listener)) {
        Err(MeasureError::Interrupted) => {
            let out = request.out.display();
            Ok(app.interrupted(&format!(
                "interrupted: {out} has what was written; run the same command again to go on"
            )))
        }
        Err(error) => Err(error.into()),
        Ok(embedded) if app.global.json => {
            print::json(&embedded)?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(embedded) => {
            print(&embedded)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print(embedded: &Embedded) -> anyhow::Result<()> {
    let Embedded { out, shard, parts, written, images, left_out, all_parts, present, .. } = embedded;
    let rate = embedded.images_per_s.map_or_else(String::new, |rate| format!(", {rate:.1} images/s"));
    let left_out = if *left_out > 0 { format!(", {left_out} left out") } else { String::new() };
    print::line(&format!(
        "{}: {images} images in {parts} parts ({written} written now) of shard {shard}{left_out}{rate}",
        out.display()
    ))?;
    print::line(&match all_parts - present {
        0 => format!("all {all_parts} parts are there"),
        missing => format!("{missing} of {all_parts} parts are missing: those of other shards"),
    })
}
