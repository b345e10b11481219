//! Bodies of requests: read whole, within the limits of size and time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::app::App;
use crate::refusal::Refusal;

/// Time for which the body of a refused request is read, so that its client sees the answer.
const LEFTOVER: Duration = Duration::from_secs(1);

/// The whole body.
///
/// # Errors
/// 413 if it is too long, 429 if too much is being received already, 408 if it does not arrive in time, 422 if it breaks off.
pub async fn read(app: &App, headers: &HeaderMap, mut body: Body) -> Result<Bytes, Refusal> {
    let limit = app.config.max_body;
    let too_large = || {
        Refusal::TooLarge(format!(
            "the body has more than {} MiB (--max-body); send less, or ask for a higher limit",
            limit >> 20
        ))
    };
    let stated =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|stated| stated > limit) {
        // A client that waits for `100 Continue` has sent nothing yet.
        if !headers.contains_key(header::EXPECT) {
            discard(body).await;
        }
        return Err(too_large());
    }
    // Until it is here, a body of unknown length may be as long as any.
    let room = u32::try_from(stated.unwrap_or(limit).div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let Ok(_room) = app.receiving.try_acquire_many(room) else {
        discard(body).await;
        return Err(Refusal::Busy(
            format!(
                "no room for the body: at most {} MiB of bodies are received at the same time (--max-receiving); try \
                 again later",
                app.config.max_receiving >> 20
            ),
            Duration::from_secs(1),
        ));
    };
    let whole = Limited::new(&mut body, limit).collect();
    let arrived = tokio::time::timeout(app.config.body_timeout, whole).await;
    match arrived {
        Err(_) => Err(Refusal::Slow(format!(
            "the body did not arrive within {} (--body-timeout)",
            humantime::format_duration(app.config.body_timeout)
        ))),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(too_large())
        }
        Ok(Err(error)) => Err(Refusal::Invalid(format!("the body cannot be read: {error}"))),
    }
}

/// Reads and forgets the body of a request that is refused, for a short time: a client that is still sending would
/// otherwise see a broken connection in place of the answer.
pub async fn discard(mut body: Body) {
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // What has not come by then, is not waited for.
    let _ = tokio::time::timeout(LEFTOVER, all).await;
}
