//! Spans of requests go to an OpenTelemetry collector, by OTLP over gRPC, in batches and from a thread of their own.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Result, ServeError};

/// The name of the service in spans, unless OTEL_SERVICE_NAME says otherwise.
const SERVICE: &str = "vitrim";
/// How long the end of the server waits for the last spans to be sent.
const FLUSH: Duration = Duration::from_secs(5);

/// What sends spans to a collector.
pub struct Sender(SdkTracerProvider);

impl Sender {
    /// Sends spans to the collector at `endpoint`. Needs the context of a tokio runtime.
    ///
    /// # Errors
    /// If `endpoint` is not the URL of a collector without TLS.
    pub fn start(endpoint: &str) -> Result<Self> {
        let refused = |line: String| ServeError::Setting(format!("--otlp-endpoint {endpoint}: {line}"));
        if !endpoint.starts_with("http://") {
            return Err(refused("give http://HOST:PORT; spans are sent by gRPC without TLS".into()));
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let exporter = exporter.build().map_err(|error| refused(error.to_string()))?;
        let exporter = Reported { exporter, endpoint: endpoint.to_owned(), lost: AtomicUsize::new(0) };
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder().with_resource(resource.build());
        Ok(Sender(provider.with_batch_exporter(exporter).build()))
    }

    /// The layer that hands it the spans of requests. Those of other crates are left out: each batch that is sent would
    /// make more.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let requests = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
        let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer(SERVICE));
        let layer = layer.with_location(false).with_threads(false).with_target(false);
        layer.with_tracked_inactivity(false).with_filter(requests)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // An error of sending was said; what is left is that it takes too long.
        if self.0.shutdown_with_timeout(FLUSH).is_err() {
            tracing::warn!("the last spans were not sent within {} s", FLUSH.as_secs());
        }
    }
}

/// Says once when a collector cannot be reached, and once when it can again.
#[derive(Debug)]
struct Reported {
    exporter: opentelemetry_otlp::SpanExporter,
    endpoint: String,
    /// Spans that were not sent since the collector was last reached.
    lost: AtomicUsize,
}

impl SpanExporter for Reported {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let count = batch.len();
        async move {
            let sent = self.exporter.export(batch).await;
            let endpoint = &self.endpoint;
            match &sent {
                Ok(()) => {
                    let lost = self.lost.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        tracing::info!("spans reach {endpoint} again; {lost} were lost");
                    }
                }
                Err(error) if self.lost.fetch_add(count, Ordering::Relaxed) == 0 => {
                    tracing::warn!("spans do not reach {endpoint} and are lost; serving goes on: {error}");
                }
                Err(_) => {}
            }
            sent
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Makes `span`, which has not begun, a child of the caller's span, which the header `traceparent` names
/// (<https://www.w3.org/TR/trace-context/>).
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    let caller = TraceContextPropagator::new().extract(&Headers(headers));
    // Without a collector there is no trace to continue.
    let _ = span.set_parent(caller);
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|key| key.as_str()).collect()
    }
}
