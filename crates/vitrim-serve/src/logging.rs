//! The log, on stderr: for people, or one JSON object a line.

use tracing_subscriber::EnvFilter;

use crate::error::{Result, ServeError};
use crate::settings::LogFormat;

/// What is logged if nothing is said.
const LEVEL: &str = "info";

/// Starts logging what `filter` lets through (tracing's syntax), once for the process. Panics go into the log, and end
/// neither the process nor other requests.
///
/// # Errors
/// If `filter` is not such a filter.
pub fn start(filter: Option<&str>, format: LogFormat) -> Result<()> {
    let filter = filter.unwrap_or(LEVEL);
    let parsed = EnvFilter::try_new(filter);
    let parsed = parsed.map_err(|error| ServeError::Setting(format!("--log {filter}: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    // A log that was started before is kept.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        // A decoder's panic on a hostile image is an answer, not a defect.
        if vitrim_data::is_guarded() {
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("unknown");
        tracing::error!(place, "a bug in vitrim: {message}; please report it");
    }));
    Ok(())
}
