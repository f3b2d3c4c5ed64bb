//! Why a request got no response.

use super::super::{ConnectError, Overflow};
use crate::{http::BodyError, reason::Reason, retry::Failure};

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
    Http(#[from] hyper::Error),
    /// The same over HTTP/2.
    #[error("the endpoint gave no response: {0}")]
    Http2(#[from] h2::Error),
    /// The request's own body broke off.
    #[error("the request broke off: {0}")]
    Body(#[source] BodyError),
}

impl SendError {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Overflow(_) => Reason::Overflow,
            Self::Http(error) if error.is_parse() => Reason::UpstreamProtocol,
            Self::Http(error) if error.is_user() => Reason::ClientReset,
            Self::Http(_) | Self::Http2(_) => Reason::UpstreamReset,
            Self::Body(_) => Reason::ClientReset,
        }
    }

    /// Whether the connection broke before a response; what came back, if anything, was no nonsense.
    pub fn broke(&self) -> bool {
        match self {
            Self::Http(error) => !error.is_parse() && !error.is_user(),
            Self::Http2(_) => true,
            Self::Connect(_) | Self::Overflow(_) | Self::Body(_) => false,
        }
    }

    /// What it says about the endpoint; `None`: nothing, the fault is on our side.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Connect(_) => Some(Failure::Connect),
            Self::Overflow(_) | Self::Body(_) => None,
            Self::Http(error) if error.is_user() => None,
            Self::Http2(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Some(Failure::RefusedStream)
            }
            Self::Http(_) | Self::Http2(_) => Some(Failure::Reset),
        }
    }
}
