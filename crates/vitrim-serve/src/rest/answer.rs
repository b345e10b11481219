//! What answers tell besides the model's output: time, cost and operating point, in headers and in JSON.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::Engine;
use crate::points::{Limits, OperatingPoint};
use crate::refusal::Refusal;
use crate::scheduler::{Served, Total};

/// Header with the milliseconds that a client waits for an answer.
const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout-ms");
/// Header with the largest loss that a request accepts.
const MAX_DROP: HeaderName = HeaderName::from_static("x-max-drop");

/// What a request's parameters and headers allow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allowed {
    /// Loss and cost.
    pub limits: Limits,
    /// Time.
    pub timeout: Option<Duration>,
}

impl Allowed {
    /// What the parameters `max_drop`, `gmacs` and `timeout_ms` say, and where they are silent, the headers.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a header that is not a number.
    pub fn of(
        headers: &HeaderMap,
        max_drop: Option<f64>,
        gmacs: Option<f64>,
        timeout_ms: Option<f64>,
    ) -> Result<Self, Refusal> {
        let header = |name: &HeaderName| -> Result<Option<f64>, Refusal> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            let number = value.to_str().ok().and_then(|value| value.trim().parse().ok());
            number.map(Some).ok_or_else(|| Refusal::Invalid(format!("header {name}: not a number")))
        };
        let timeout = match timeout_ms {
            Some(timeout) => Some(timeout),
            None => header(&TIMEOUT)?,
        };
        let max_loss = match max_drop {
            Some(max_drop) => Some(max_drop),
            None => header(&MAX_DROP)?,
        };
        let timeout = timeout.map(|ms| {
            Duration::try_from_secs_f64(ms / 1e3)
                .map_err(|_| Refusal::Invalid(format!("timeout of {ms} ms: give a number of at least 0")))
        });
        Ok(Allowed { limits: Limits { max_loss, gmacs }, timeout: timeout.transpose()? })
    }
}

/// An operating point, with its index: 0 is the dense model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PointAnswer {
    /// Its index in `/v2/models/{model}/operating_points`.
    pub index: usize,
    /// The point.
    #[serde(flatten)]
    pub point: OperatingPoint,
}

/// The operating point at `index` of `engine`.
pub fn point(engine: &Engine, index: usize) -> PointAnswer {
    PointAnswer { index, point: engine.ladder.points[index].clone() }
}

/// The headers of the answer to a request of `model` that arrived at `arrived`: of several images the longest times, the
/// sum of the MACs, and the cheapest operating point.
pub fn headers(model: &str, engine: &Engine, served: &[Served], arrived: Instant) -> HeaderMap {
    let Total { point, gmacs, decode, queue, compute } = Total::of(served);
    let total = arrived.elapsed();
    let ms = |time: Duration| format!("{:.3}", 1e3 * time.as_secs_f64());
    let point = &engine.ladder.points[point];
    let certified = match &point.certified {
        Some(bound) => {
            format!("{} <= {} {} at {}", bound.measure, bound.at_most, bound.unit, bound.confidence)
        }
        None => "none".to_owned(),
    };
    let timing = format!(
        "decode;dur={}, queue;dur={}, compute;dur={}, total;dur={}",
        ms(decode),
        ms(queue),
        ms(compute),
        ms(total)
    );
    let batch = served.iter().map(|image| image.batch).max().unwrap_or(0);
    let all = [
        ("x-model", model.to_owned()),
        ("x-operating-point", point.name.clone()),
        ("x-certified-loss", certified),
        ("x-gmacs", format!("{gmacs:.6}")),
        ("x-decode-time-ms", ms(decode)),
        ("x-queue-time-ms", ms(queue)),
        ("x-compute-time-ms", ms(compute)),
        ("x-total-time-ms", ms(total)),
        ("x-batch-images", batch.to_string()),
        ("server-timing", timing),
    ];
    let header = |(name, value): (&'static str, String)| {
        let value = HeaderValue::from_str(&value).ok()?;
        Some((HeaderName::from_static(name), value))
    };
    all.into_iter().filter_map(header).collect()
}
