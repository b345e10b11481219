//! Serves pruned Vision Transformers over REST and gRPC.
//!
//! Three things set it apart from a server of padded batches. It batches ragged images as they are, by a budget of expected
//! MACs ([`scheduler`]). Each answer says what it cost, and what its operating point certifies ([`points`]). And under load
//! it moves to cheaper certified points before it refuses ([`elastic`]).
//!
//! A request passes [`rest`] or [`grpc`], is admitted by [`app`], decoded ([`decode`]), queued and batched ([`scheduler`]),
//! and computed by an [`engine`]; [`repository`] loads engines and replaces them. [`server`] is the life of the process.
//!
//! # REST
//!
//! | route | |
//! | --- | --- |
//! | `POST /predict` | a raw image (JPEG, PNG, WebP, BMP, GIF, TIFF, PNM), or `multipart/form-data` of many; query: `model`, `top_k`, `survivors=true`, `max_drop`, `gmacs`, `timeout_ms` |
//! | `POST /features` | as `/predict`; query `kind=pooled`, `tokens` or `embedding` in place of `top_k` |
//! | `POST /v1/embeddings` | OpenAI's form; `input`: base64 or data URL, or a list of them; `encoding_format`: `float` or `base64` |
//! | `GET /v2`, `/v2/models/{m}`, `/v2/models/{m}/ready`, `POST /v2/models/{m}/infer` | Open Inference Protocol; `pixel_values` FP32 `[n, 3, H, W]` or `images` BYTES `[n]`; outputs `logits`, `features`, `embedding`, `gmacs`, `operating_point`; JSON flat or nested, and binary tensors; parameters `max_drop`, `gmacs`, `timeout` (microseconds) |
//! | `GET /v2/models/{m}/operating_points` | the points, each with its expected cost and certified loss |
//! | `GET /v2/health/live`, `/v2/health/ready` | 200, or 503 with the stage of loading; need no token |
//! | `POST /v2/repository/index`, `/v2/repository/models/{m}/load`, `.../unload` | Triton's repository API |
//! | `GET /metrics`, `/docs`, `/openapi.json` | Prometheus; the API as a page and as OpenAPI |
//!
//! `/predict` answers `{"model", "images": [{"image", "classes": [{"class", "name", "probability"}], "gmacs",
//! "operating_point": {"index", "name", "gmacs", "certified": {"measure", "unit", "at_most", "confidence", "images"}},
//! "stages"}]}`; `/features` has `pooled`, `tokens` or `embedding` in place of `classes`. Headers of answers: `x-model`,
//! `x-operating-point`, `x-certified-loss`, `x-gmacs` (sum), `x-decode-time-ms`, `x-queue-time-ms`, `x-compute-time-ms`,
//! `x-total-time-ms` (longest), `x-batch-images`, `server-timing`. Headers of requests: `x-timeout-ms`, `x-max-drop`,
//! `authorization: Bearer TOKEN`.
//!
//! Errors are `{"error": "one line"}` (on `/v1/embeddings` OpenAI's form, except 401): 401 token, 404 model or path, 408 the
//! body is too slow, 413 too many bytes, images or pixels, 415 no image that is read, 422 anything else about the request,
//! 429 with `Retry-After` when the queue is full or too many bytes are being received, 500 a bug, 503 with `Retry-After`
//! while the model is not loaded, 504 past the deadline.
//!
//! # gRPC
//!
//! `inference.GRPCInferenceService` (`proto/open_inference.proto`), `grpc.health.v1.Health` and reflection. A call's deadline
//! is kept; the token goes in the metadata `authorization`.
//!
//! # Settings
//!
//! [`Settings`] has every flag, with its environment variable `VITRIM_SERVE_...` and its key in a TOML file.

pub mod app;
pub mod decode;
pub mod elastic;
pub mod engine;
pub mod error;
mod first_bytes;
pub mod grpc;
pub mod listen;
pub mod logging;
pub mod metrics;
#[cfg(feature = "otel")]
mod otel;
pub mod points;
pub mod protocol;
pub mod refusal;
pub mod repository;
pub mod rest;
pub mod scheduler;
pub mod server;
pub mod settings;
mod spans;
pub mod tls;

pub use error::{Result, ServeError};
pub use server::{Server, run};
pub use settings::{Config, Settings};
