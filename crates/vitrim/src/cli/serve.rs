//! `vitrim serve`.

use std::ffi::OsString;
use std::process::ExitCode;

use vitrim_serve::Settings;

use super::App;
use super::args::ServeArgs;

/// Variable with the bearer token itself: a flag would show it to everyone on the machine.
const TOKEN: &str = "VITRIM_SERVE_TOKEN";

pub fn run(app: &App, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let settings = args.settings.clone().over(file);
    let mut log = settings.log();
    if app.global.quiet && log.filter.is_none() {
        log.filter = Some("warn".to_owned());
    }
    let token = std::env::var_os(TOKEN).map(OsString::into_string).transpose();
    // To go on without a token would open the server to everyone.
    let token = token.map_err(|_| anyhow::anyhow!("{TOKEN} is not UTF-8; give another token"))?;
    let config = settings.config(app.global.threads, token)?;
    vitrim_serve::run(config, &log)?;
    Ok(ExitCode::SUCCESS)
}
