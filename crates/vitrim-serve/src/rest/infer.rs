//! Inference by the Open Inference Protocol over REST: JSON, flat or nested, and Triton's binary tensor extension.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderName, HeaderValue, Request as HttpRequest, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Allowed, headers};
use super::health::ModelPath;
use super::{Arrived, Shared, body};
use crate::points::Limits;
use crate::protocol::{self, Data, Described, Infer, Output, Tensor, Values};
use crate::refusal::Refusal;

/// Header with the length of the JSON before the binary tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// JSON of more bytes is parsed on a thread that may block.
const LONG_JSON: usize = 64 << 10;

/// A request for inference.
#[derive(Deserialize, ToSchema)]
pub struct InferRequest {
    /// Comes back in the answer.
    id: Option<String>,
    /// `max_drop`, `gmacs`, `timeout` (microseconds), `binary_data_output`; others are ignored.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: Parameters,
    /// One input: `pixel_values` or `images`.
    inputs: Vec<InferInput>,
    /// The outputs that are wanted.
    #[serde(default)]
    outputs: Vec<InferOutput>,
}

#[derive(Default, Deserialize)]
struct Parameters {
    max_drop: Option<f64>,
    gmacs: Option<f64>,
    timeout: Option<f64>,
    #[serde(default)]
    binary_data_output: bool,
}

/// An input.
#[derive(Deserialize, ToSchema)]
pub struct InferInput {
    /// Its name.
    name: String,
    /// Its shape.
    shape: Vec<i64>,
    /// `FP32` or `BYTES`.
    datatype: String,
    /// `binary_data_size`: its bytes behind the JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: InputParameters,
    /// Its values, flat or nested; BYTES as base64.
    #[schema(value_type = Option<Vec<f32>>)]
    data: Option<Flat>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

/// An output that is wanted.
#[derive(Deserialize, ToSchema)]
pub struct InferOutput {
    /// Its name.
    name: String,
    /// `binary_data`: whether its values come behind the JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// The answer.
#[derive(Serialize, ToSchema)]
pub struct InferAnswer {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// `operating_point`, `certified_loss`, and the times, as in the headers.
    #[schema(value_type = Object)]
    parameters: Value,
    /// The outputs.
    outputs: Vec<OutputAnswer>,
}

/// An output.
#[derive(Serialize, ToSchema)]
pub struct OutputAnswer {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    /// `binary_data_size`: its bytes behind the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
    /// Its values, flat.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<f32>>)]
    data: Option<Values>,
}

/// Inputs and outputs of a model.
#[utoipa::path(get, path = "/v2/models/{model}", tag = "open inference protocol", params(("model" = String, Path)), responses((status = 200, description = "Name, versions, platform, inputs, outputs."), (status = 404, description = "No such model.")))]
pub async fn metadata(State(app): Shared, Path(path): Path<ModelPath>) -> Result<Response, Refusal> {
    let engine = app.repository.engine(app.repository.find(Some(&path.model))?)?;
    path.check(engine.version)?;
    let tensors = |described: Vec<Described>| -> Vec<Value> {
        let tensor = |t: Described| json!({ "name": t.name, "datatype": t.datatype, "shape": t.shape });
        described.into_iter().map(tensor).collect()
    };
    Ok(Json(json!({
        "name": path.model,
        "versions": [engine.version.to_string()],
        "platform": protocol::PLATFORM,
        "inputs": tensors(protocol::inputs(&engine)),
        "outputs": tensors(protocol::outputs(&engine)),
    }))
    .into_response())
}

/// Run a model.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "open inference protocol", params(("model" = String, Path)),
    request_body = InferRequest,
    responses((status = 200, body = InferAnswer), (status = 422, description = "Tensors that the model does not take; other statuses as /predict."))
)]
pub async fn infer(
    State(app): Shared,
    Extension(arrived): Extension<Arrived>,
    Path(path): Path<ModelPath>,
    request: HttpRequest<Body>,
) -> Result<Response, Refusal> {
    let checked = || {
        let index = app.repository.find(Some(&path.model))?;
        let engine = app.check(index)?;
        path.check(engine.version)?;
        Ok((index, engine))
    };
    let (index, engine) = match checked() {
        Ok(checked) => checked,
        Err(refusal) => {
            body::discard(request.into_body()).await;
            return Err(refusal);
        }
    };
    let (parts, body) = request.into_parts();
    let bytes = body::read(&app, &parts.headers, body).await?;
    let length = match parts.headers.get(&JSON_LENGTH) {
        None => bytes.len(),
        Some(value) => {
            let length = value.to_str().ok().and_then(|value| value.parse::<usize>().ok());
            length.filter(|length| *length <= bytes.len()).ok_or_else(|| {
                Refusal::Invalid(format!("header {JSON_LENGTH} is no length within the body"))
            })?
        }
    };
    let request = if length > LONG_JSON {
        let parsing = tokio::task::spawn_blocking(move || parse(&bytes, length));
        parsing.await.map_err(|_| Refusal::Internal("a bug in vitrim while JSON was read".into()))??
    } else {
        parse(&bytes, length)?
    };
    let Parsed { id, infer, binary } = request;
    // A header may state what the parameters do not.
    let allowed = Allowed::of(&parts.headers, infer.limits.max_loss, infer.limits.gmacs, None)?;
    let infer = Infer { limits: allowed.limits, timeout: infer.timeout.or(allowed.timeout), ..infer };
    let (outputs, served) = protocol::infer(&app, index, &engine, infer, arrived.0).await?;
    let name = &app.repository.slots()[index].name;
    let headers = headers(name, &engine, &served, arrived.0);
    let parameter =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let head = InferAnswer {
        model_name: name.clone(),
        model_version: engine.version.to_string(),
        id,
        parameters: json!({
            "operating_point": parameter("x-operating-point"),
            "certified_loss": parameter("x-certified-loss"),
            "queue_time_ms": parameter("x-queue-time-ms"),
            "compute_time_ms": parameter("x-compute-time-ms"),
        }),
        outputs: Vec::new(),
    };
    Ok((headers, written(head, outputs, &binary)).into_response())
}

/// A request, and which of its outputs are to be binary.
struct Parsed {
    id: Option<String>,
    infer: Infer,
    binary: Binary,
}

struct Binary {
    usual: bool,
    outputs: Vec<(String, bool)>,
}

/// Reads a body whose first `length` bytes are JSON.
fn parse(bytes: &Bytes, length: usize) -> Result<Parsed, Refusal> {
    let request: InferRequest = serde_json::from_slice(&bytes[..length])
        .map_err(|error| Refusal::Invalid(format!("the JSON is not a request for inference: {error}")))?;
    let mut rest = bytes.slice(length..);
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let wrong = |line: &str| Refusal::Invalid(format!("input {}: {line}", input.name));
        let data = match (input.parameters.binary_data_size, input.data) {
            (Some(_), Some(_)) => return Err(wrong("has both data and binary_data_size; give one of them")),
            (Some(size), None) if size > rest.len() => {
                return Err(wrong(&format!("{size} bytes of binary data, and {} are left", rest.len())));
            }
            (Some(size), None) => Data::Raw(rest.split_to(size)),
            (None, Some(Flat::Numbers(values))) => Data::Numbers(values),
            (None, Some(Flat::Texts(texts))) => {
                let decoded = texts.iter().map(|text| BASE64.decode(text).map(Bytes::from));
                Data::Elements(
                    decoded.collect::<Result<_, _>>().map_err(|_| wrong("BYTES in JSON are base64"))?,
                )
            }
            (None, None) => return Err(wrong("has neither data nor binary_data_size")),
        };
        inputs.push(Tensor { name: input.name, datatype: input.datatype, shape: input.shape, data });
    }
    if !rest.is_empty() {
        return Err(Refusal::Invalid(format!("{} bytes behind the last binary tensor", rest.len())));
    }
    let Parameters { max_drop, gmacs, timeout, binary_data_output: usual } = request.parameters;
    let timeout = timeout.map(|us| {
        Duration::try_from_secs_f64(us / 1e6).map_err(|_| {
            Refusal::Invalid(format!("timeout of {us} microseconds: give a number of at least 0"))
        })
    });
    let binary = |output: &InferOutput| (output.name.clone(), output.parameters.binary_data.unwrap_or(usual));
    Ok(Parsed {
        id: request.id,
        binary: Binary { usual, outputs: request.outputs.iter().map(binary).collect() },
        infer: Infer {
            inputs,
            outputs: request.outputs.into_iter().map(|output| output.name).collect(),
            limits: Limits { max_loss: max_drop, gmacs },
            // Clients send 0 for no timeout.
            timeout: timeout.transpose()?.filter(|timeout| !timeout.is_zero()),
        },
    })
}

/// The body of an answer: JSON, and the binary tensors behind it.
fn written(mut head: InferAnswer, outputs: Vec<Output>, binary: &Binary) -> Response {
    let mut tail = Vec::new();
    let mut any = false;
    for output in outputs {
        let named = binary.outputs.iter().find(|(name, _)| name == output.name);
        let (name, datatype, shape) = (output.name, output.values.datatype(), output.shape);
        let mut described = OutputAnswer { name, datatype, shape, parameters: None, data: None };
        if named.map_or(binary.usual, |(_, binary)| *binary) {
            let raw = output.values.raw();
            described.parameters = Some(json!({ "binary_data_size": raw.len() }));
            tail.extend(raw);
            any = true;
        } else {
            described.data = Some(output.values);
        }
        head.outputs.push(described);
    }
    if !any {
        return Json(head).into_response();
    }
    let mut bytes = serde_json::to_vec(&head).expect("an answer is plain data");
    let length = bytes.len();
    bytes.extend(tail);
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(header::CONTENT_TYPE, kind), (JSON_LENGTH, HeaderValue::from(length))], bytes).into_response()
}

/// Values of a tensor in JSON, flat or nested.
enum Flat {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut into = (Vec::new(), Vec::new());
        de::DeserializeSeed::deserialize(Nested(&mut into), deserializer)?;
        match into {
            (numbers, texts) if texts.is_empty() => Ok(Flat::Numbers(numbers)),
            (numbers, texts) if numbers.is_empty() => Ok(Flat::Texts(texts)),
            _ => Err(de::Error::custom("numbers and strings in one tensor")),
        }
    }
}

/// Collects the values of lists within lists. The depth is bounded by `serde_json`.
struct Nested<'a>(&'a mut (Vec<f32>, Vec<String>));

impl<'de> de::DeserializeSeed<'de> for Nested<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers or strings, in lists")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Nested(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.0.push(value as f32);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.0.push(value as f32);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.0.push(value as f32);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.1.push(value.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(json: &str) -> Result<Flat, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn nested_and_flat_values_are_the_same() {
        for json in ["[1, 2.5, -3, 4]", "[[1, 2.5], [-3, 4]]", "[[[1], [2.5]], [[-3], [4]]]"] {
            assert!(matches!(flat(json).unwrap(), Flat::Numbers(values) if values == [1.0, 2.5, -3.0, 4.0]));
        }
        assert!(matches!(flat(r#"[["YQ=="], ["Yg=="]]"#).unwrap(), Flat::Texts(texts) if texts.len() == 2));
        assert!(flat(r#"[1, "a"]"#).is_err() && flat("[null]").is_err() && flat("[{}]").is_err());
        assert!(flat(&"[".repeat(100_000)).is_err(), "no stack overflow");
    }
}
