//! The log, on stderr: for people, or one JSON object a line. With the feature `otel`, spans of requests go to an
//! OpenTelemetry collector, too.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::error::{Result, ServeError};
use crate::settings::LogFormat;

/// What is logged if nothing is said.
const LEVEL: &str = "info";

/// What is logged, and where it goes.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// What is let through, in tracing's syntax.
    pub filter: Option<String>,
    /// How lines are written.
    pub format: LogFormat,
    /// The collector that spans are sent to, by OTLP over gRPC.
    pub otlp: Option<String>,
}

/// Ends the log: spans that were not yet sent are sent when it is dropped.
pub struct Guard {
    #[cfg(feature = "otel")]
    _spans: Option<crate::otel::Sender>,
}

/// Starts logging, once for the process, in the context of a tokio runtime. Panics go into the log, and end neither the
/// process nor other requests.
///
/// # Errors
/// If the filter is invalid, or spans cannot be sent.
pub fn start(log: &Log) -> Result<Guard> {
    let filter = log.filter.as_deref().unwrap_or(LEVEL);
    let parsed = EnvFilter::try_new(filter);
    let parsed = parsed.map_err(|error| ServeError::Setting(format!("--log {filter}: {error}")))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => {
            fmt::layer().with_ansi(ansi).with_writer(std::io::stderr).with_filter(parsed).boxed()
        }
        LogFormat::Json => {
            fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_filter(parsed).boxed()
        }
    };
    let registry = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otel")]
    let guard = {
        let spans = log.otlp.as_deref().map(crate::otel::Sender::start).transpose()?;
        // A log that was started before is kept.
        let _ = registry.with(spans.as_ref().map(crate::otel::Sender::layer)).try_init();
        Guard { _spans: spans }
    };
    #[cfg(not(feature = "otel"))]
    let guard = {
        if log.otlp.is_some() {
            let line = "--otlp-endpoint: this vitrim was built without the feature `otel`; build it with --features otel";
            return Err(ServeError::Setting(line.into()));
        }
        // A log that was started before is kept.
        let _ = registry.try_init();
        Guard {}
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
    Ok(guard)
}
