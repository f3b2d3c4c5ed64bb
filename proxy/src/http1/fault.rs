//! Requests that are none.

use http::StatusCode;

/// What is wrong with a request's head. Its connection ends with the answer, since no one knows where the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not HTTP/1.1, or may be read two ways.
    #[error("the request is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// It is larger than it may be.
    #[error(
        "the request's header is larger than {} bytes or has more than {} fields",
        crate::http::limits::HEADER_BYTES,
        crate::http::limits::HEADERS
    )]
    TooLarge,
    /// Its target alone is.
    #[error("the request's target is too long")]
    TargetTooLong,
    /// Its version is another.
    #[error("the request is of another version than HTTP/1.0 and HTTP/1.1")]
    Version,
    /// Its body is coded in another way than by chunks.
    #[error("the request's Transfer-Encoding is not \"chunked\"")]
    Coding,
    /// It is not complete in time.
    #[error("the request's header was not complete in time")]
    TooSlow,
}

impl Fault {
    /// What the client is told.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}
