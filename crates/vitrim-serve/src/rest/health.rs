//! What the server is and does: liveness, readiness, metadata, operating points, metrics.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Shared;
use super::answer::PointAnswer;
use crate::app::Phase;
use crate::refusal::Refusal;

/// Content type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Name, version and extensions of the server (Open Inference Protocol).
#[utoipa::path(get, path = "/v2", tag = "open inference protocol", responses((status = 200, description = "The server's metadata.")))]
pub async fn server() -> impl IntoResponse {
    Json(json!({
        "name": "vitrim",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": crate::protocol::EXTENSIONS,
    }))
}

/// Whether the process answers.
#[utoipa::path(get, path = "/v2/health/live", tag = "open inference protocol", responses((status = 200, description = "It does.")))]
pub async fn live() -> impl IntoResponse {
    Json(json!({ "live": true }))
}

/// The state of the server.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// Whether requests should be sent here.
    ready: bool,
    /// `serving`, `draining` or `ending`.
    phase: &'static str,
    /// The models.
    models: Vec<ModelReadiness>,
}

/// The state of a model.
#[derive(Serialize, ToSchema)]
pub struct ModelReadiness {
    /// Its name.
    name: String,
    /// Whether it serves.
    ready: bool,
    /// `ready`, or what is being done to it.
    stage: String,
}

/// Whether requests should be sent here: all models serve, and the server is not shutting down.
#[utoipa::path(get, path = "/v2/health/ready", tag = "open inference protocol", responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "While models load, and after SIGTERM.")))]
pub async fn ready(State(app): Shared) -> Response {
    let model = |slot: &crate::repository::Slot| ModelReadiness {
        name: slot.name.clone(),
        ready: slot.is_ready(),
        stage: slot.stage(),
    };
    let ready = app.is_ready();
    let phase = match app.phase() {
        Phase::Serving => "serving",
        Phase::Draining => "draining",
        Phase::Ending => "ending",
    };
    let state = Readiness { ready, phase, models: app.repository.slots().iter().map(model).collect() };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(state)).into_response()
}

/// Whether a model serves.
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "open inference protocol", params(("model" = String, Path)), responses((status = 200, description = "It does."), (status = 503, description = "It does not, yet.")))]
pub async fn model_ready(State(app): Shared, Path(path): Path<ModelPath>) -> Result<Response, Refusal> {
    let index = app.repository.find(Some(&path.model))?;
    let engine = app.repository.engine(index)?;
    path.check(engine.version)?;
    Ok(Json(json!({ "name": path.model, "ready": true })).into_response())
}

/// The path of a model, perhaps of a version of it.
#[derive(serde::Deserialize)]
pub struct ModelPath {
    /// The model's name.
    pub model: String,
    /// The version.
    pub version: Option<String>,
}

impl ModelPath {
    /// Checks that the version, if one is given, is the one that serves.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if not.
    pub fn check(&self, serving: u64) -> Result<(), Refusal> {
        match &self.version {
            Some(version) if *version != serving.to_string() => Err(Refusal::NotFound(format!(
                "model {} has no version {version}; version {serving} serves",
                self.model
            ))),
            _ => Ok(()),
        }
    }
}

/// The operating points of a model.
#[derive(Serialize, ToSchema)]
pub struct OperatingPoints {
    /// The model.
    model: String,
    /// Whether the server slides among the first `slide` points.
    elastic: bool,
    /// Number of points that the server may slide among.
    slide: usize,
    /// The points, mildest first.
    points: Vec<PointAnswer>,
}

/// The operating points of a model, each with its expected cost and the loss that is certified.
#[utoipa::path(get, path = "/v2/models/{model}/operating_points", tag = "models", params(("model" = String, Path)), responses((status = 200, body = OperatingPoints)))]
pub async fn operating_points(State(app): Shared, Path(path): Path<ModelPath>) -> Result<Response, Refusal> {
    let index = app.repository.find(Some(&path.model))?;
    let engine = app.repository.engine(index)?;
    let points = (0..engine.ladder.points.len()).map(|index| super::answer::point(&engine, index)).collect();
    let answer =
        OperatingPoints { model: path.model, elastic: engine.elastic, slide: engine.ladder.slide, points };
    Ok(Json(answer).into_response())
}

/// All metrics, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "server", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(app): Shared) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, PROMETHEUS)], app.metrics.handle().render())
}
