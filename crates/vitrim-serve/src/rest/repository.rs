//! The repository API (Triton's extension): the models, and loading them again.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use crate::refusal::Refusal;
use crate::repository::{self, IndexEntry};

/// The models of the server.
#[utoipa::path(post, path = "/v2/repository/index", tag = "models", responses((status = 200, body = Vec<IndexEntry>)))]
pub async fn index(State(app): Shared) -> impl IntoResponse {
    Json(repository::index(&app.repository))
}

/// Load a model again, from where it was loaded before. What serves goes on serving until then, and if it fails.
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", tag = "models", params(("model" = String, Path)), responses((status = 200, description = "It serves."), (status = 422, description = "It cannot be loaded; what served before still serves.")))]
pub async fn load(State(app): Shared, Path(model): Path<String>) -> Result<Response, Refusal> {
    app.reload(&model).await?;
    Ok(Json(json!({})).into_response())
}

/// Take a model out of service.
#[utoipa::path(post, path = "/v2/repository/models/{model}/unload", tag = "models", params(("model" = String, Path)), responses((status = 200, description = "It no longer serves.")))]
pub async fn unload(State(app): Shared, Path(model): Path<String>) -> Result<Response, Refusal> {
    app.unload(&model)?;
    Ok(Json(json!({})).into_response())
}
