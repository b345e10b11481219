//! `vitrim serve`.

use std::process::ExitCode;

use vitrim_serve::Settings;

use super::App;
use super::args::ServeArgs;

/// Variable with the bearer token itself: a flag would show it to everyone on the machine.
const TOKEN: &str = "VITRIM_SERVE_TOKEN";

pub fn run(app: &App, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let settings = args.settings.clone().over(file);
    let quiet = app.global.quiet.then_some("warn");
    vitrim_serve::logging::start(settings.log.as_deref().or(quiet), settings.log_format.unwrap_or_default())?;
    let config = settings.config(app.global.threads, std::env::var(TOKEN).ok())?;
    vitrim_serve::run(config)?;
    Ok(ExitCode::SUCCESS)
}
