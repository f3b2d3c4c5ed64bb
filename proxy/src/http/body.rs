//! The one body type, of requests and responses alike.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{telemetry::Measured, upstream::Lease};

/// A body. Frames pass through as they come: nothing is collected, trailers included.
pub struct Body(Kind, Option<Measured>);

enum Kind {
    Full(Option<Bytes>),
    Incoming(Incoming),
    Leased {
        incoming: Incoming,
        lease: Option<Lease>,
        deadline: Option<Pin<Box<Sleep>>>,
    },
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came over failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It was not complete within the route's timeout.
    #[error("the response was not complete within the route's timeout")]
    Timeout,
}

impl Body {
    fn of(kind: Kind) -> Self {
        Self(kind, None)
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self::of(Kind::Full(None))
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Full(Some(bytes.into()).filter(|bytes| !bytes.is_empty())))
    }

    /// What comes over a connection.
    pub fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// What comes over a pooled connection, which is given back at the end.
    pub fn leased(incoming: Incoming, lease: Lease) -> Self {
        Self::of(Kind::Leased {
            incoming,
            lease: Some(lease),
            deadline: None,
        })
    }

    /// Breaks off at this time.
    pub fn ending_at(mut self, at: Instant) -> Self {
        if let Kind::Leased { deadline, .. } = &mut self.0 {
            *deadline = Some(Box::pin(sleep_until(at)));
        }
        self
    }

    /// Holds the measurement of its request, which ends with the body.
    pub fn measure(&mut self, measured: Measured) {
        self.1 = Some(measured);
    }

    /// Takes what the body holds of its connection; whoever has it now ends it.
    pub fn take_lease(&mut self) -> Option<Lease> {
        match &mut self.0 {
            Kind::Leased { lease, .. } => lease.take(),
            _ => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::Http),
            Kind::Leased {
                incoming, deadline, ..
            } => {
                let polled = Pin::new(incoming).poll_frame(cx).map_err(BodyError::Http);
                if polled.is_pending()
                    && let Some(deadline) = deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Incoming(incoming) | Kind::Leased { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Incoming(incoming) | Kind::Leased { incoming, .. } => incoming.size_hint(),
        }
    }
}
