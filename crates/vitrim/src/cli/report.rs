//! `vitrim report`.

use std::process::ExitCode;

use serde_json::json;
use vitrim_report::report;
use vitrim_text::shown;

use super::args::ReportArgs;
use super::{App, print};

pub fn run(app: &App, args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let written = report(&args.run)?;
    if !written.evaluated {
        app.reporter.note("note: nothing is evaluated yet; the report says which command adds the rest");
    }
    if app.global.json {
        let plots: Vec<String> = written.plots.iter().map(|plot| shown(plot)).collect();
        print::json(&json!({ "report": shown(&written.page), "plots": plots }))?;
    } else {
        print::line(&written.page.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
