//! Why a request got no response.

use super::super::{ConnectError, Overflow};
use crate::{http::BodyError, http1, http2, reason::Reason, retry::Failure};

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The circuit breaker is open.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The connection broke, or what came back is not HTTP.
    #[error("the endpoint gave no response: {0}")]
    Http1(#[source] http1::Error),
    /// The same over HTTP/2.
    #[error("the endpoint gave no response: {0}")]
    Http2(#[from] h2::Error),
    /// The same of a sidecar's.
    #[error("the endpoint gave no response: {0}")]
    Carried(#[source] http2::Error),
    /// The same of a CONNECT over HTTP/2.
    #[error("the endpoint gave no response: {0}")]
    Tunnel(#[from] hyper::Error),
    /// The request's own body broke off.
    #[error("the request broke off: {0}")]
    Body(#[source] BodyError),
}

impl From<http1::Error> for SendError {
    fn from(error: http1::Error) -> Self {
        match error {
            http1::Error::Body(error) => Self::Body(error),
            error => Self::Http1(error),
        }
    }
}

impl SendError {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Overflow(_) => Reason::Overflow,
            Self::Http1(http1::Error::Malformed(_)) | Self::Carried(http2::Error::Malformed(_)) => {
                Reason::UpstreamProtocol
            }
            Self::Http1(http1::Error::Length(_)) => Reason::ClientReset,
            Self::Http1(_) | Self::Http2(_) | Self::Carried(_) | Self::Tunnel(_) => Reason::UpstreamReset,
            Self::Body(_) => Reason::ClientReset,
        }
    }

    /// Whether the connection broke before a response; what came back, if anything, was no nonsense.
    pub fn broke(&self) -> bool {
        match self {
            Self::Http1(error) => matches!(error, http1::Error::Io(_) | http1::Error::Closed),
            Self::Carried(error) => !matches!(error, http2::Error::Malformed(_)),
            Self::Http2(_) | Self::Tunnel(_) => true,
            Self::Connect(_) | Self::Overflow(_) | Self::Body(_) => false,
        }
    }

    /// What it says about the endpoint; `None`: nothing, the fault is on our side.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Connect(_) => Some(Failure::Connect),
            Self::Overflow(_) | Self::Body(_) => None,
            Self::Http1(http1::Error::Length(_)) => None,
            Self::Http2(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Some(Failure::RefusedStream)
            }
            Self::Carried(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Some(Failure::RefusedStream)
            }
            Self::Http1(_) | Self::Http2(_) | Self::Carried(_) | Self::Tunnel(_) => Some(Failure::Reset),
        }
    }
}
