//! `POST /predict` and `POST /features`: images in the body, as they are or as the parts of a form.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Multipart, Query, State};
use axum::http::{HeaderMap, Request as HttpRequest, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vitrim_measure::model::features::{FeatureKind, Features};
use vitrim_measure::predict::{ClassProbability, Survivors, top_classes};

use super::answer::{Allowed, PointAnswer, headers, point};
use super::{Arrived, Shared, body};
use crate::app::{App, Given, Request};
use crate::engine::{Ask, SharedEngine};
use crate::refusal::Refusal;
use crate::scheduler::Served;

/// Classes that are answered if a request does not say how many.
const TOP_K: usize = 5;

/// Parameters of `/predict` and `/features`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The model; the server's first if absent.
    model: Option<String>,
    /// Classes to answer (`/predict`); 5 if absent.
    top_k: Option<usize>,
    /// `pooled`, `tokens` or `embedding` (`/features`); `pooled` if absent.
    kind: Option<Kind>,
    /// Whether to answer the patches that survived each stage.
    #[serde(default)]
    survivors: bool,
    /// Largest certified loss that is accepted: a drop of top-1 in pp, or a drift in percent.
    max_drop: Option<f64>,
    /// Largest expected cost of an image, 1e9 MACs, at a certified operating point.
    gmacs: Option<f64>,
    /// Milliseconds after which the answer is of no use; also as header `X-Timeout-Ms`.
    timeout_ms: Option<f64>,
}

/// A kind of features.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The classifier's input.
    #[default]
    Pooled,
    /// The features of each token that is left.
    Tokens,
    /// The embedding that is compared with those of texts.
    Embedding,
}

/// The answer of `/predict`.
#[derive(Serialize, ToSchema)]
pub struct PredictAnswer {
    /// The model.
    model: String,
    /// One answer for each image, in the order in which they were sent.
    images: Vec<ImageClasses>,
}

/// The classes of an image.
#[derive(Serialize, ToSchema)]
pub struct ImageClasses {
    /// The file's name, if one was sent.
    image: String,
    /// The most probable classes, best first.
    classes: Vec<ClassProbability>,
    /// What it took.
    #[serde(flatten)]
    spent: Spent,
}

/// The answer of `/features`.
#[derive(Serialize, ToSchema)]
pub struct FeaturesAnswer {
    /// The model.
    model: String,
    /// One answer for each image, in the order in which they were sent.
    images: Vec<ImageFeatures>,
}

/// The features of an image: one of `pooled`, `tokens` and `embedding`.
#[derive(Serialize, ToSchema)]
pub struct ImageFeatures {
    /// The file's name, if one was sent.
    image: String,
    /// `pooled` or `embedding`: numbers; `tokens`: objects with place, size and features.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    features: Option<Features>,
    /// What it took.
    #[serde(flatten)]
    spent: Spent,
}

/// What an image took.
#[derive(Serialize, ToSchema)]
pub struct Spent {
    /// MACs, 1e9, the policy's own scoring included.
    gmacs: f64,
    /// The operating point that served it.
    operating_point: PointAnswer,
    /// The survivors of each stage, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<Vec<Survivors>>,
}

/// Classify images.
#[utoipa::path(
    post, path = "/predict", tag = "images", params(Parameters),
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"), (String = "multipart/form-data")), description = "One image, or the images of a form."),
    responses(
        (status = 200, body = PredictAnswer),
        (status = 413, description = "Too many bytes, images or pixels."),
        (status = 415, description = "No image that is read."),
        (status = 422, description = "A broken image or an invalid parameter."),
        (status = 429, description = "The queue is full; see Retry-After."),
        (status = 503, description = "The model loads, or the server ends."),
        (status = 504, description = "The deadline passed."),
    )
)]
pub async fn predict(
    State(app): Shared,
    Extension(arrived): Extension<Arrived>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: HttpRequest<Body>,
) -> Response {
    let asked = |_: &SharedEngine, parameters: &Parameters| match parameters.kind {
        None => Ok(Ask::LOGITS),
        Some(_) => Err(Refusal::Invalid("kind is a parameter of /features".into())),
    };
    let done = match run(&app, arrived.0, parameters, request, asked).await {
        Ok(done) => done,
        Err(refusal) => return refusal.into_response(),
    };
    let (engine, top_k) = (&done.engine, done.parameters.top_k.unwrap_or(TOP_K));
    let image = |(name, served): (&String, &Served)| ImageClasses {
        image: name.clone(),
        classes: top_classes(&engine.loaded, served.outcome.logits.as_deref().unwrap_or_default(), top_k),
        spent: spent(engine, served, done.parameters.survivors),
    };
    let images = done.names.iter().zip(&done.served).map(image).collect();
    let answer = PredictAnswer { model: done.model.clone(), images };
    (headers(&done.model, engine, &done.served, arrived.0), Json(answer)).into_response()
}

/// Features of images.
#[utoipa::path(
    post, path = "/features", tag = "images", params(Parameters),
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"), (String = "multipart/form-data")), description = "One image, or the images of a form."),
    responses((status = 200, body = FeaturesAnswer), (status = 422, description = "A broken image or an invalid parameter; other statuses as /predict."))
)]
pub async fn features(
    State(app): Shared,
    Extension(arrived): Extension<Arrived>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: HttpRequest<Body>,
) -> Response {
    let asked = |engine: &SharedEngine, parameters: &Parameters| {
        if parameters.top_k.is_some() {
            return Err(Refusal::Invalid("top_k is a parameter of /predict".into()));
        }
        let kind = match parameters.kind.unwrap_or_default() {
            Kind::Pooled => FeatureKind::Pooled,
            Kind::Tokens => FeatureKind::Tokens,
            Kind::Embedding if engine.embedding() == FeatureKind::Embedding => FeatureKind::Embedding,
            Kind::Embedding => {
                let line = "the model has no projection to an embedding; ask for kind=pooled";
                return Err(Refusal::Invalid(line.into()));
            }
        };
        Ok(Ask::features(kind))
    };
    let done = match run(&app, arrived.0, parameters, request, asked).await {
        Ok(done) => done,
        Err(refusal) => return refusal.into_response(),
    };
    let engine = &done.engine;
    let image = |(name, served): (&String, &Served)| ImageFeatures {
        image: name.clone(),
        features: served.outcome.features.clone(),
        spent: spent(engine, served, done.parameters.survivors),
    };
    let images = done.names.iter().zip(&done.served).map(image).collect();
    let answer = FeaturesAnswer { model: done.model.clone(), images };
    (headers(&done.model, engine, &done.served, arrived.0), Json(answer)).into_response()
}

fn spent(engine: &SharedEngine, served: &Served, survivors: bool) -> Spent {
    Spent {
        gmacs: served.outcome.macs as f64 / 1e9,
        operating_point: point(engine, served.point),
        stages: survivors.then(|| served.outcome.stages.clone()),
    }
}

/// A request that was answered.
struct Done {
    parameters: Parameters,
    model: String,
    engine: SharedEngine,
    names: Vec<String>,
    served: Vec<Served>,
}

async fn run(
    app: &Arc<App>,
    arrived: Instant,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: HttpRequest<Body>,
    asked: impl Fn(&SharedEngine, &Parameters) -> Result<Ask, Refusal>,
) -> Result<Done, Refusal> {
    let checked = || {
        let Query(parameters) = parameters.map_err(|error| Refusal::Invalid(one_line(&error.body_text())))?;
        let index = app.repository.find(parameters.model.as_deref())?;
        let engine = app.check(index)?;
        let ask = asked(&engine, &parameters)?;
        let allowed =
            Allowed::of(request.headers(), parameters.max_drop, parameters.gmacs, parameters.timeout_ms)?;
        Ok((parameters, index, engine, ask, allowed))
    };
    let (parameters, index, engine, ask, allowed) = match checked() {
        Ok(checked) => checked,
        Err(refusal) => {
            body::discard(request.into_body()).await;
            return Err(refusal);
        }
    };
    let given = images(app, request).await?;
    let names = given.iter().map(|(name, _)| name.clone()).collect();
    let named = |(name, bytes): (String, bytes::Bytes)| {
        Given::Encoded(if name.is_empty() { "the image".into() } else { name }, bytes)
    };
    let request = Request {
        model: index,
        engine: Arc::clone(&engine),
        images: given.into_iter().map(named).collect(),
        ask,
        limits: allowed.limits,
        deadline: app.deadline(arrived, allowed.timeout),
    };
    let served = app.answer(request).await?;
    Ok(Done { parameters, model: app.repository.slots()[index].name.clone(), engine, names, served })
}

/// The images of a body, with their names: the body itself, or the files of a form.
async fn images(app: &Arc<App>, request: HttpRequest<Body>) -> Result<Vec<(String, bytes::Bytes)>, Refusal> {
    let headers = request.headers();
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default().to_owned());
    let kind = kind.unwrap_or_else(|| "application/octet-stream".into());
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let form = essence == "multipart/form-data";
    // curl --data-binary sends the second one if it is told nothing.
    let plain = ["application/octet-stream", "application/x-www-form-urlencoded"].contains(&essence.as_str());
    if !form && !plain && !essence.starts_with("image/") {
        body::discard(request.into_body()).await;
        return Err(Refusal::UnsupportedMedia(format!(
            "content type {essence}: send image/jpeg, image/png, image/webp, application/octet-stream or \
             multipart/form-data"
        )));
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(app, &parts.headers, body).await?;
    if !form {
        return Ok(vec![(String::new(), bytes)]);
    }
    of_form(app, &parts.headers, bytes).await
}

async fn of_form(
    app: &Arc<App>,
    headers: &HeaderMap,
    bytes: bytes::Bytes,
) -> Result<Vec<(String, bytes::Bytes)>, Refusal> {
    let broken = |error: &dyn std::fmt::Display| {
        Refusal::Invalid(one_line(&format!("the form cannot be read: {error}")))
    };
    let mut whole = HttpRequest::new(Body::from(bytes));
    *whole.headers_mut() = headers.clone();
    // The body was read within the server's limit.
    DefaultBodyLimit::disable().apply(&mut whole);
    let mut form = Multipart::from_request(whole, &()).await.map_err(|error| broken(&error.body_text()))?;
    let mut images = Vec::new();
    while let Some(part) = form.next_field().await.map_err(|error| broken(&error.body_text()))? {
        if images.len() == app.config.max_images {
            return Err(Refusal::TooLarge(format!(
                "more than {} images in one request (--max-images); send fewer at once",
                app.config.max_images
            )));
        }
        let name = part.file_name().or(part.name()).unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(|error| broken(&error.body_text()))?;
        images.push((name, bytes));
    }
    Ok(images)
}

/// `text` on one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
