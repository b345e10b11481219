//! `vitrim report`.

use std::process::ExitCode;

use serde_json::json;
use vitrim_report::report;

use super::args::ReportArgs;
use super::{App, print};

pub fn run(app: &App, args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let written = report(&args.run)?;
    if !written.evaluated {
        app.reporter.note("note: nothing is evaluated yet; the report says which command adds the rest");
    }
    if app.global.json {
        print::json(&json!({ "report": written.page, "plots": written.plots }))?;
    } else {
        print::line(&written.page.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
