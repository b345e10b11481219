//! REST.

mod answer;
mod body;
mod docs;
mod embeddings;
mod health;
mod infer;
mod predict;
mod repository;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::decompression::RequestDecompressionLayer;
use tracing::Instrument;

use crate::app::App;
use crate::refusal::Refusal;
use crate::spans;
pub use docs::openapi;

/// The state of handlers.
type Shared = State<Arc<App>>;

/// When the request's head had arrived.
#[derive(Clone, Copy)]
struct Arrived(Instant);

/// The routes.
pub fn router(app: &Arc<App>) -> Router {
    let compressed = CompressionLayer::new()
        .gzip(true)
        .deflate(true)
        // Of small answers and of tensors, compressing costs more than it saves.
        .compress_when(SizeAbove::new(4096).and(NotForContentType::const_new("application/octet-stream")));
    Router::new()
        .route("/predict", post(predict::predict))
        .route("/features", post(predict::features))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(embeddings::models))
        .route("/v2", get(health::server))
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/v2/models/{model}", get(infer::metadata))
        .route("/v2/models/{model}/versions/{version}", get(infer::metadata))
        .route("/v2/models/{model}/ready", get(health::model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(health::model_ready))
        .route("/v2/models/{model}/infer", post(infer::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::infer))
        .route("/v2/models/{model}/operating_points", get(health::operating_points))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .route("/metrics", get(health::metrics))
        .route("/docs", get(docs::page))
        .route("/openapi.json", get(docs::description))
        .fallback(not_found)
        .layer(RequestDecompressionLayer::new().gzip(true).deflate(true))
        .layer(compressed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(app), authorise))
        .layer(middleware::from_fn_with_state(Arc::clone(app), observe))
        .with_state(Arc::clone(app))
}

/// Notes when the request arrived, and counts it when it is answered.
async fn observe(State(app): Shared, mut request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    request.extensions_mut().insert(Arrived(arrived));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let span = spans::request(&method, route.as_deref(), request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    let (status, took) = (response.status().as_u16(), arrived.elapsed());
    spans::ended(&span, status);
    // The paths of strangers must not become metrics.
    app.metrics.request(route.as_deref().unwrap_or("other"), status, took);
    tracing::debug!(%method, path, status, ms = 1e3 * took.as_secs_f64(), "request");
    response
}

/// Refuses requests without the token; probes of liveness and readiness need none.
async fn authorise(State(app): Shared, request: Request, next: Next) -> Response {
    let open = request.uri().path().starts_with("/v2/health/") && request.method() == Method::GET;
    let value = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if open || app.is_authorised(value) {
        return next.run(request).await;
    }
    let line = "the bearer token is missing or wrong; send Authorization: Bearer TOKEN";
    let mut response = Refusal::Unauthorized(line.into()).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

async fn not_found(request: Request) -> Refusal {
    Refusal::NotFound(format!("no such path: {}; GET /docs lists what there is", request.uri().path()))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Refusal::Internal("a bug in vitrim; the server's log has its place".into()).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refused(&self, json!({ "error": self.to_string() }))
    }
}

/// The answer to a request that is refused, with the JSON `body`.
fn refused(refusal: &Refusal, body: Value) -> Response {
    let status = StatusCode::from_u16(refusal.status()).expect("all are statuses");
    let mut response = (status, Json(body)).into_response();
    if let Some(seconds) = refusal.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
