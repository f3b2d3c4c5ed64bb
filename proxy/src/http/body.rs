//! The one body type, of requests and responses alike.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{flow::Watch, limits, repeat::Repeated};
use crate::{
    http1::{self, Switched},
    http2,
    telemetry::Measured,
    upstream::Lease,
};

/// A body. Frames pass through as they come: nothing is collected, trailers included. It is small, since messages are
/// moved many times on their way; `None` is nothing.
#[derive(Default)]
pub struct Body(Option<Box<Inner>>);

struct Inner {
    kind: Kind,
    measured: Option<Measured>,
    watch: Option<Box<Watch>>,
}

enum Kind {
    Full(Option<Bytes>),
    Incoming(Incoming),
    Upload(http1::Upload),
    Http1 {
        incoming: http1::Incoming,
        lease: Option<Lease>,
    },
    Tunnelled {
        incoming: Incoming,
        lease: Option<Lease>,
    },
    Stream {
        stream: RecvStream,
        /// Trailers may still come.
        data_done: bool,
        lease: Option<Lease>,
    },
    Http2 {
        incoming: http2::Incoming,
        /// Of a response.
        lease: Option<Lease>,
    },
    Repeated(Repeated),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's connection failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The HTTP/1 connection it came over did.
    #[error("the message broke off: {0}")]
    Http1(#[source] Box<http1::Error>),
    /// The HTTP/2 stream it came over did.
    #[error("the stream broke off: {0}")]
    Stream(#[source] h2::Error),
    /// The same of a stream between sidecars.
    #[error("the stream broke off: {0}")]
    Http2(#[source] http2::Error),
    /// It was not complete within the route's timeout.
    #[error("the response was not complete within the route's timeout")]
    Timeout,
    /// Nothing passed for longer than the idle timeout.
    #[error("nothing passed for longer than the stream's idle timeout")]
    Idle,
    /// The request is sent again, so this try of it ends.
    #[error("the request is sent anew")]
    Superseded,
}

impl Body {
    fn of(kind: Kind) -> Self {
        Self(Some(Box::new(Inner::of(kind))))
    }

    fn inner(&mut self) -> &mut Inner {
        self.0
            .get_or_insert_with(|| Box::new(Inner::of(Kind::Full(None))))
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self(None)
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
    pub(crate) fn http1(mut incoming: http1::Incoming, mut lease: Lease) -> Self {
        if let Some(connection) = incoming.take_connection() {
            lease.put_back(connection);
        }
        Self::of(Kind::Http1 {
            incoming,
            lease: Some(lease),
        })
    }

    /// What comes over a connection of its own.
    pub(crate) fn tunnelled(incoming: Incoming, lease: Lease) -> Self {
        Self::of(Kind::Tunnelled {
            incoming,
            lease: Some(lease),
        })
    }

    /// What comes over a stream of a shared HTTP/2 connection.
    pub(crate) fn stream(stream: RecvStream, lease: Lease) -> Self {
        Self::of(Kind::Stream {
            stream,
            data_done: false,
            lease: Some(lease),
        })
    }

    /// What comes over a stream between sidecars; a response holds its `lease`.
    pub(crate) fn http2(incoming: http2::Incoming, lease: Option<Lease>) -> Self {
        Self::of(Kind::Http2 { incoming, lease })
    }

    /// One try of a request.
    pub(super) fn repeated(repeated: Repeated) -> Self {
        Self::of(Kind::Repeated(repeated))
    }

    /// What is done beside while it passes.
    pub(super) fn watch(&mut self) -> &mut Watch {
        self.inner().watch.get_or_insert_default()
    }

    /// Holds the measurement of its request, which ends with the body.
    pub fn measure(&mut self, measured: Measured) {
        self.inner().measured = Some(measured);
    }

    /// Reads and drops a body that no one wants, for a moment.
    pub fn discard(self) {
        if let Some(inner) = self.0
            && let Kind::Incoming(mut incoming) = inner.kind
            && !incoming.is_end_stream()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(timeout(limits::DISCARDING, async move {
                let mut bytes = 0;
                while let Some(Ok(frame)) = incoming.frame().await
                    && bytes < limits::DISCARDED_BYTES
                {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                }
            }));
        }
    }

    /// Takes what the body holds of its connection; whoever has it now ends it.
    pub fn take_lease(&mut self) -> Option<Lease> {
        match &mut self.0.as_mut()?.kind {
            Kind::Http1 { lease, .. }
            | Kind::Tunnelled { lease, .. }
            | Kind::Stream { lease, .. }
            | Kind::Http2 { lease, .. } => lease.take(),
            Kind::Full(_) | Kind::Incoming(_) | Kind::Upload(_) | Kind::Repeated(_) => None,
        }
    }

    /// The endpoint's connection, where it agreed to another protocol on it.
    pub(super) fn take_switched(&mut self) -> Option<Switched> {
        match &mut self.0.as_mut()?.kind {
            Kind::Http1 { incoming, .. } => incoming.take_switched(),
            _ => None,
        }
    }
}

impl From<http1::Upload> for Body {
    /// What comes over a client's HTTP/1 connection.
    fn from(upload: http1::Upload) -> Self {
        Self::of(Kind::Upload(upload))
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
            None => Poll::Ready(None),
            Some(inner) => {
                let polled = inner.kind.poll_frame(cx);
                match &mut inner.watch {
                    None => polled,
                    Some(watch) => watch.see(cx, polled),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.kind.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(inner) => inner.kind.size_hint(),
        }
    }
}

impl Inner {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            measured: None,
            watch: None,
        }
    }
}

impl Kind {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Incoming(incoming) | Self::Tunnelled { incoming, .. } => {
                Pin::new(incoming).poll_frame(cx).map_err(BodyError::Http)
            }
            Self::Upload(upload) => Pin::new(upload).poll_frame(cx).map_err(broken),
            Self::Http1 { incoming, lease } => poll_http1(incoming, lease, cx),
            Self::Stream {
                stream, data_done, ..
            } => poll_stream(stream, data_done, cx),
            Self::Http2 { incoming, .. } => Pin::new(incoming).poll_frame(cx).map_err(BodyError::Http2),
            Self::Repeated(repeated) => repeated.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Incoming(incoming) | Self::Tunnelled { incoming, .. } => incoming.is_end_stream(),
            Self::Upload(upload) => upload.is_end_stream(),
            Self::Http1 { incoming, .. } => incoming.is_end_stream(),
            Self::Stream { stream, .. } => stream.is_end_stream(),
            Self::Http2 { incoming, .. } => incoming.is_end_stream(),
            Self::Repeated(repeated) => repeated.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Incoming(incoming) | Self::Tunnelled { incoming, .. } => incoming.size_hint(),
            Self::Upload(upload) => upload.size_hint(),
            Self::Http1 { incoming, .. } => incoming.size_hint(),
            // Its length, where it is known, is in the response's head.
            Self::Stream { stream, .. } if stream.is_end_stream() => SizeHint::with_exact(0),
            Self::Stream { .. } => SizeHint::default(),
            Self::Http2 { incoming, .. } => incoming.size_hint(),
            Self::Repeated(repeated) => repeated.size_hint(),
        }
    }
}

/// The next frame of a response over HTTP/1. With the last its connection goes back.
fn poll_http1(
    incoming: &mut http1::Incoming,
    lease: &mut Option<Lease>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = ready!(Pin::new(&mut *incoming).poll_frame(cx));
    if let Some(lease) = lease
        && let Some(connection) = incoming.take_connection()
    {
        lease.put_back(connection);
    }
    Poll::Ready(polled.map(|frame| frame.map_err(broken)))
}

fn broken(error: http1::Error) -> BodyError {
    BodyError::Http1(Box::new(error))
}

/// The next frame of a stream: data, then perhaps trailers. That the peer needs no more of the request
/// (RFC 9113 §8.1) ends its response without harm.
fn poll_stream(
    stream: &mut RecvStream,
    data_done: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let ended = |error: h2::Error| {
        let harmless = error.reason() == Some(Reason::NO_ERROR);
        (!harmless).then_some(Err(BodyError::Stream(error)))
    };
    if !*data_done {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                let _ = stream.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(ended(error)),
            None => *data_done = true,
        }
    }
    Poll::Ready(match ready!(stream.poll_trailers(cx)) {
        Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
        Err(error) => ended(error),
    })
}
