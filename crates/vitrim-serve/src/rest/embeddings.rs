//! `POST /v1/embeddings` in OpenAI's form: images as base64 or data URLs.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::Request as HttpRequest;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Allowed, headers};
use super::{Arrived, Shared, body, refused};
use crate::app::{App, Given, Request};
use crate::engine::Ask;
use crate::protocol::{Values, pooled};
use crate::refusal::Refusal;

/// A request for embeddings.
#[derive(Deserialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// The model; the server's first if absent.
    model: Option<String>,
    /// An image, or a list of them: base64, or `data:image/...;base64,...`; as a string, or as
    /// `{"image_url": {"url": ...}}` or `{"image": ...}`.
    #[schema(value_type = Value)]
    input: Input,
    /// `float` or `base64` (of little-endian f32).
    encoding_format: Option<Format>,
    /// Largest certified loss that is accepted.
    max_drop: Option<f64>,
    /// Largest expected cost of an image, 1e9 MACs.
    gmacs: Option<f64>,
    /// Not supported: the model has one size of embedding.
    dimensions: Option<usize>,
    /// Ignored.
    #[schema(value_type = Option<String>)]
    #[serde(rename = "user")]
    _user: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Many(Vec<Item>),
    One(Item),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Text(String),
    Url { image_url: Url },
    Image { image: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Url {
    Object { url: String },
    Text(String),
}

/// How embeddings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of little-endian f32.
    Base64,
}

/// The answer.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingsAnswer {
    /// `list`.
    object: &'static str,
    /// The model.
    model: String,
    /// One embedding for each image, in order.
    data: Vec<EmbeddingAnswer>,
    /// Patches and other tokens of the images, before pruning.
    #[schema(value_type = Object)]
    usage: Value,
}

/// An embedding.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingAnswer {
    /// `embedding`.
    object: &'static str,
    /// Its index.
    index: usize,
    /// Its values.
    #[schema(value_type = Vec<f32>)]
    embedding: Written,
}

/// The values of an embedding.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Numbers(Vec<f32>),
    Text(String),
}

/// Embed images, in OpenAI's form: the embedding that is compared with those of texts, or the pooled features of a model
/// without one.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsRequest,
    responses((status = 200, body = EmbeddingsAnswer), (status = 422, description = "An input that is no image; other statuses as /predict, errors in OpenAI's form."))
)]
pub async fn embeddings(
    State(app): Shared,
    Extension(arrived): Extension<Arrived>,
    request: HttpRequest<Body>,
) -> Response {
    answered(&app, arrived, request).await.unwrap_or_else(|refusal| as_openai(&refusal))
}

/// The models, in OpenAI's form.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, description = "The models.")))]
pub async fn models(State(app): Shared) -> impl IntoResponse {
    let model =
        |slot: &crate::repository::Slot| json!({ "id": slot.name, "object": "model", "owned_by": "vitrim" });
    let data: Vec<Value> = app.repository.slots().iter().map(model).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// A refusal in OpenAI's form.
fn as_openai(refusal: &Refusal) -> Response {
    let kind = if refusal.status() < 500 { "invalid_request_error" } else { "server_error" };
    let error = json!({ "error": { "message": refusal.to_string(), "type": kind, "code": refusal.reason(), "param": null } });
    refused(refusal, error)
}

async fn answered(app: &Arc<App>, arrived: Arrived, request: HttpRequest<Body>) -> Result<Response, Refusal> {
    // The model is named in the body; a full queue of the only model is known before.
    if app.repository.slots().len() == 1
        && let Err(refusal) = app.check(0)
    {
        body::discard(request.into_body()).await;
        return Err(refusal);
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(app, &parts.headers, body).await?;
    let parsing = tokio::task::spawn_blocking(move || parse(&bytes));
    let (request, images) =
        parsing.await.map_err(|_| Refusal::Internal("a bug in vitrim while JSON was read".into()))??;
    let index = app.repository.find(request.model.as_deref())?;
    let engine = app.check(index)?;
    let allowed = Allowed::of(&parts.headers, request.max_drop, request.gmacs, None)?;
    let asked = Request {
        model: index,
        engine: Arc::clone(&engine),
        images,
        ask: Ask::features(engine.embedding()),
        limits: allowed.limits,
        deadline: app.deadline(arrived.0, allowed.timeout),
    };
    let served = app.answer(asked).await?;
    let name = app.repository.slots()[index].name.clone();
    let format = request.encoding_format.unwrap_or_default();
    let embedding = |(index, served)| {
        let values = pooled(served).to_vec();
        let embedding = match format {
            Format::Float => Written::Numbers(values),
            Format::Base64 => Written::Text(BASE64.encode(Values::Numbers(values).raw())),
        };
        EmbeddingAnswer { object: "embedding", index, embedding }
    };
    let tokens = served.len() * engine.spec().num_tokens();
    let answer = EmbeddingsAnswer {
        object: "list",
        model: name.clone(),
        data: served.iter().enumerate().map(embedding).collect(),
        usage: json!({ "prompt_tokens": tokens, "total_tokens": tokens }),
    };
    Ok((headers(&name, &engine, &served, arrived.0), Json(answer)).into_response())
}

fn parse(bytes: &Bytes) -> Result<(EmbeddingsRequest, Vec<Given>), Refusal> {
    let mut request: EmbeddingsRequest = serde_json::from_slice(bytes)
        .map_err(|error| Refusal::Invalid(format!("the JSON is not a request for embeddings: {error}")))?;
    if request.dimensions.is_some() {
        return Err(Refusal::Invalid("dimensions: the model has one size of embedding; leave it out".into()));
    }
    let items = match std::mem::replace(&mut request.input, Input::Many(Vec::new())) {
        Input::Many(items) => items,
        Input::One(item) => vec![item],
    };
    let given = |(at, item): (usize, Item)| {
        let text = match item {
            Item::Text(text) | Item::Image { image: text } => text,
            Item::Url { image_url: Url::Object { url } | Url::Text(url) } => url,
        };
        Ok(Given::Encoded(format!("input {at}"), decoded(at, &text)?))
    };
    let images = items.into_iter().enumerate().map(given).collect::<Result<_, _>>()?;
    Ok((request, images))
}

/// The bytes of an image as base64 or in a data URL.
fn decoded(at: usize, text: &str) -> Result<Bytes, Refusal> {
    let base64 = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map(|(_, base64)| base64).ok_or_else(|| {
            Refusal::Invalid(format!("input {at}: a data URL without ;base64, in front of its content"))
        })?,
        None if text.starts_with("http://") || text.starts_with("https://") => {
            return Err(Refusal::Invalid(format!(
                "input {at}: this server fetches no URLs; send the image as base64 or as a data URL"
            )));
        }
        None => text,
    };
    BASE64.decode(base64.trim()).map(Bytes::from).map_err(|_| {
        Refusal::Invalid(format!("input {at}: not base64; send an image as base64 or as a data URL"))
    })
}
