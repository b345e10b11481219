//! Why a request is not answered: each kind has one HTTP status, one gRPC code and one line of text.

use std::time::Duration;

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No room for the request's images in the queue, or for its body: 429 with Retry-After.
    #[error("{0}")]
    Busy(String, Duration),
    /// Too many bytes, images or pixels: 413.
    #[error("{0}")]
    TooLarge(String),
    /// A content type, an encoding or an image format that is not read: 415.
    #[error("{0}")]
    UnsupportedMedia(String),
    /// What was sent cannot be understood or answered: 422.
    #[error("{0}")]
    Invalid(String),
    /// No such model, version or path: 404.
    #[error("{0}")]
    NotFound(String),
    /// The bearer token is missing or wrong: 401.
    #[error("{0}")]
    Unauthorized(String),
    /// The request did not arrive in time: 408.
    #[error("{0}")]
    Slow(String),
    /// The model is not loaded, or the server ended before the image was computed: 503.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline has passed: 504.
    #[error("{0}")]
    Deadline(String),
    /// A defect of the server: 500.
    #[error("{0}")]
    Internal(String),
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Busy(..) => 429,
            Refusal::TooLarge(_) => 413,
            Refusal::UnsupportedMedia(_) => 415,
            Refusal::Invalid(_) => 422,
            Refusal::NotFound(_) => 404,
            Refusal::Unauthorized(_) => 401,
            Refusal::Slow(_) => 408,
            Refusal::Unavailable(_) => 503,
            Refusal::Deadline(_) => 504,
            Refusal::Internal(_) => 500,
        }
    }

    /// The gRPC code.
    pub fn code(&self) -> tonic::Code {
        match self {
            Refusal::Busy(..) | Refusal::TooLarge(_) => tonic::Code::ResourceExhausted,
            Refusal::UnsupportedMedia(_) | Refusal::Invalid(_) => tonic::Code::InvalidArgument,
            Refusal::NotFound(_) => tonic::Code::NotFound,
            Refusal::Unauthorized(_) => tonic::Code::Unauthenticated,
            Refusal::Unavailable(_) => tonic::Code::Unavailable,
            Refusal::Slow(_) | Refusal::Deadline(_) => tonic::Code::DeadlineExceeded,
            Refusal::Internal(_) => tonic::Code::Internal,
        }
    }

    /// After how many whole seconds a client should try again, if that helps.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::Busy(_, wait) => Some((wait.as_secs_f64().ceil() as u64).max(1)),
            Refusal::Unavailable(_) => Some(1),
            _ => None,
        }
    }

    /// The reason in one word, for metrics and for OpenAI's error type.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Busy(..) => "busy",
            Refusal::TooLarge(_) => "too_large",
            Refusal::UnsupportedMedia(_) => "unsupported_media",
            Refusal::Invalid(_) => "invalid",
            Refusal::NotFound(_) => "not_found",
            Refusal::Unauthorized(_) => "unauthorized",
            Refusal::Slow(_) => "slow",
            Refusal::Unavailable(_) => "unavailable",
            Refusal::Deadline(_) => "deadline",
            Refusal::Internal(_) => "internal",
        }
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        tonic::Status::new(refusal.code(), refusal.to_string())
    }
}
