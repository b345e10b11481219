//! The span of a request: the log's lines within it show it, and with the feature `otel` it goes to a collector. Names are
//! those of OpenTelemetry's conventions for HTTP where there are any
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>).

use axum::http::{HeaderMap, Method};
use tracing::Span;
use tracing::field::Empty;

use crate::engine::Engine;
use crate::scheduler::Total;

/// The span of a request with these `headers` to `route`; a child of the caller's span if `traceparent` names one.
pub fn request(method: &Method, route: Option<&str>, headers: &HeaderMap) -> Span {
    let name = route.map_or_else(|| method.to_string(), |route| format!("{method} {route}"));
    let span = tracing::info_span!(
        "request",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
        model = Empty,
        operating_point = Empty,
        gmacs = Empty,
        decode_ms = Empty,
        queue_ms = Empty,
        compute_ms = Empty
    );
    #[cfg(feature = "otel")]
    crate::otel::continue_trace(&span, headers);
    #[cfg(not(feature = "otel"))]
    let _ = headers;
    span
}

/// Notes in the current request's span what its images took of `engine`, which is that of `model`.
pub fn answered(model: &str, engine: &Engine, total: &Total) {
    let span = Span::current();
    span.record("model", model);
    span.record("operating_point", engine.ladder.points[total.point].name.as_str());
    span.record("gmacs", total.gmacs);
    for (field, time) in
        [("decode_ms", total.decode), ("queue_ms", total.queue), ("compute_ms", total.compute)]
    {
        span.record(field, 1e3 * time.as_secs_f64());
    }
}

/// Notes in `span` the HTTP status of the request. By the conventions, only what is the server's fault is an error of it.
pub fn ended(span: &Span, status: u16) {
    // Not u16: unsigned numbers become text on the way to a collector.
    span.record("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.record("otel.status_code", "error");
    }
}
