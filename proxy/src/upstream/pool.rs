//! The HTTP connections to one endpoint.
//!
//! HTTP/1 connections are taken and given back last-in first-out, so that the least number stays warm. HTTP/2
//! connections are shared up to [`STREAMS`] requests each; more load opens more connections, since all streams of
//! one connection share one lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

use super::{ConnectError, Connector, Endpoint, InFlight, Purpose};
use crate::{
    http::{Body, limits},
    reason::Reason,
};

/// Requests at a time on one HTTP/2 connection.
const STREAMS: usize = 100;
/// A pooled connection idle for longer is not used again: the peer may be about to close it.
const IDLE: Duration = Duration::from_secs(60);

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or what came back is not HTTP.
    #[error("the endpoint gave no response: {0}")]
    Http(#[from] hyper::Error),
}

impl SendError {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Http(error) if error.is_parse() => Reason::UpstreamProtocol,
            Self::Http(error) if error.is_user() => Reason::ClientReset,
            Self::Http(_) => Reason::UpstreamReset,
        }
    }
}

#[derive(Default)]
pub(super) struct Pool {
    retired: AtomicBool,
    http1: Mutex<VecDeque<Idle>>,
    http2: Mutex<Vec<Shared>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one and not one for each request.
    opening: tokio::sync::Mutex<()>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<Body>,
    streams: Arc<AtomicUsize>,
}

/// Counts as one request on an HTTP/2 connection while it lives.
struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn begin(&self) -> (http2::SendRequest<Body>, Stream) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), Stream(self.streams.clone()))
    }
}

impl Pool {
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.http1.lock().clear();
        self.http2.lock().clear();
    }

    pub(super) fn sweep(&self) {
        let mut idle = self.http1.lock();
        idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE);
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
        drop(idle);
        self.http2.lock().retain(|shared| !shared.sender.is_closed());
    }

    fn take(&self) -> Option<http1::SendRequest<Body>> {
        let mut pooled = self.http1.lock();
        while let Some(idle) = pooled.pop_back() {
            if idle.sender.is_ready() && idle.since.elapsed() < IDLE {
                return Some(idle.sender);
            }
        }
        None
    }

    fn give(&self, sender: http1::SendRequest<Body>) {
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        let since = Instant::now();
        self.http1.lock().push_back(Idle { sender, since });
    }

    fn share(&self) -> Option<(http2::SendRequest<Body>, Stream)> {
        let mut shared = self.http2.lock();
        shared.retain(|shared| !shared.sender.is_closed());
        let free = shared
            .iter()
            .find(|shared| shared.streams.load(Ordering::Relaxed) < STREAMS)?;
        Some(free.begin())
    }
}

/// What a response holds while its body is read: the endpoint's load and the connection it came over.
pub struct Lease {
    in_flight: InFlight,
    connection: Connection,
}

enum Connection {
    Http1(Option<http1::SendRequest<Body>>),
    Http2(#[expect(dead_code, reason = "counts while it lives")] Stream),
}

impl Lease {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Connection::Http1(sender) = &mut self.connection else {
            return;
        };
        let Some(mut sender) = sender.take().filter(|sender| !sender.is_closed()) else {
            return;
        };
        let endpoint = self.in_flight.endpoint();
        if sender.is_ready() {
            endpoint.pool.give(sender);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The request's body may still be on its way, or the connection's task has not run since.
            let endpoint = endpoint.clone();
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(IDLE, sender.ready()).await {
                    endpoint.pool.give(sender);
                }
            });
        }
    }
}

impl InFlight {
    /// Sends a request over HTTP/1. One that finds its pooled connection closed before anything could come back is
    /// sent again on a fresh one, if it was not sent or can be repeated without harm.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_http1(
        self,
        connector: &Connector,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        if let Some(mut sender) = self.endpoint().pool.take() {
            let mut repeat = repeatable(&request);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.leased(response, Connection::Http1(Some(sender)))),
                Err(mut error) => match error.take_message().or_else(|| repeat.take()) {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut sender = open_http1(self.endpoint(), connector).await?;
        let response = sender
            .try_send_request(request)
            .await
            .map_err(TrySendError::into_error)?;
        Ok(self.leased(response, Connection::Http1(Some(sender))))
    }

    /// Sends a request over HTTP/2.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_http2(
        self,
        connector: &Connector,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let mut retried = false;
        loop {
            let (mut sender, stream) = shared_http2(self.endpoint(), connector).await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.leased(response, Connection::Http2(stream))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !retried => {
                        request = unsent;
                        retried = true;
                    }
                    _ => return Err(error.into_error().into()),
                },
            }
        }
    }

    fn leased(self, response: Response<Incoming>, connection: Connection) -> Response<Body> {
        let lease = Lease {
            in_flight: self,
            connection,
        };
        response.map(|incoming| Body::leased(incoming, lease))
    }
}

/// A copy to send again: only of a request without a body and with an idempotent method (RFC 9110 §9.2.2).
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = request.method().is_idempotent() && request.method() != Method::CONNECT;
    if !idempotent || !request.body().is_end_stream() || request.headers().contains_key(http::header::UPGRADE)
    {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

async fn open_http1(
    endpoint: &Endpoint,
    connector: &Connector,
) -> Result<http1::SendRequest<Body>, SendError> {
    let io = connector.connect(endpoint, Purpose::Http).await?;
    let (sender, connection) = http1::Builder::new()
        .max_headers(limits::HEADERS)
        .handshake(TokioIo::new(io))
        .await?;
    tokio::spawn(async move {
        // An error reaches the request that suffers from it; an idle connection just ends.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

async fn shared_http2(
    endpoint: &Endpoint,
    connector: &Connector,
) -> Result<(http2::SendRequest<Body>, Stream), SendError> {
    if let Some(shared) = endpoint.pool.share() {
        return Ok(shared);
    }
    let _opening = endpoint.pool.opening.lock().await;
    if let Some(shared) = endpoint.pool.share() {
        return Ok(shared);
    }
    let io = connector.connect(endpoint, Purpose::Http).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .handshake(TokioIo::new(io))
        .await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let shared = Shared {
        sender,
        streams: Arc::default(),
    };
    let begun = shared.begin();
    if !endpoint.pool.retired.load(Ordering::Acquire) {
        endpoint.pool.http2.lock().push(shared);
    }
    Ok(begun)
}
