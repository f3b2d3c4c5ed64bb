//! The HTTP connections to one endpoint.
//!
//! HTTP/1 connections are taken and given back last-in first-out, so that the least number stays warm. HTTP/2
//! connections are shared up to [`STREAMS`] requests each; more load opens more connections, since all streams of
//! one connection share one lock.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

use super::{
    ConnectError, Connector, Endpoint, InFlight, Overflow, Purpose,
    usage::{Kind, Permit},
};
use crate::{
    http::{Body, BodyError, limits},
    reason::Reason,
    retry::Failure,
};
use http2::{Shared, Stream, Unanswered};

mod http2;

/// Further connections for a request of which nothing was sent, since the one taken was about to end.
const ANOTHER_CONNECTION: u32 = 3;
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

#[derive(Default)]
pub(super) struct Pool {
    retired: AtomicBool,
    http1: Mutex<VecDeque<Idle>>,
    http2: Mutex<Vec<Shared>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one and not one for each request.
    opening: tokio::sync::Mutex<()>,
    open: Arc<AtomicUsize>,
}

struct Idle {
    http1: Http1,
    since: Instant,
}

/// An HTTP/1 connection.
struct Http1 {
    sender: http1::SendRequest<Body>,
    /// Requests sent over it.
    used: u32,
}

/// Counts as one open connection while it lives.
struct Open {
    endpoint: Arc<AtomicUsize>,
    _cluster: Permit,
}

impl Open {
    fn new(pool: &Pool, cluster: Permit) -> Self {
        pool.open.fetch_add(1, Ordering::AcqRel);
        Self {
            endpoint: pool.open.clone(),
            _cluster: cluster,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.endpoint.fetch_sub(1, Ordering::AcqRel);
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
        idle.retain(|idle| !idle.http1.sender.is_closed() && idle.since.elapsed() < IDLE);
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
        drop(idle);
        self.http2.lock().retain(|shared| !shared.is_closed());
    }

    fn take(&self) -> Option<Http1> {
        let mut pooled = self.http1.lock();
        while let Some(idle) = pooled.pop_back() {
            if idle.http1.sender.is_ready() && idle.since.elapsed() < IDLE {
                return Some(idle.http1);
            }
        }
        None
    }

    fn give(&self, http1: Http1) {
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        let since = Instant::now();
        self.http1.lock().push_back(Idle { http1, since });
    }

    /// A connection with room for one more request; `crowded`: one of any load. One that has served as many
    /// requests as it may is not kept.
    fn share(&self, limit: Option<u32>, crowded: bool) -> Option<(SendRequest<Bytes>, Stream)> {
        let mut pooled = self.http2.lock();
        pooled.retain(|shared| !shared.is_closed());
        let free = if crowded {
            let load = |index: &usize| pooled.get(*index).map(Shared::load);
            (0..pooled.len()).min_by_key(load)
        } else {
            pooled.iter().position(|shared| shared.load() < STREAMS)
        }?;
        let shared = &mut pooled[free];
        let begun = shared.begin();
        if limit.is_some_and(|limit| shared.used >= limit) {
            pooled.remove(free);
        }
        Some(begun)
    }
}

/// What a response holds while its body is read: the endpoint's load and the connection it came over.
pub struct Lease {
    in_flight: InFlight,
    connection: Connection,
}

enum Connection {
    Http1(Option<Http1>),
    Http2(#[expect(dead_code, reason = "counts while it lives")] Stream),
    /// Of this request alone.
    Tunnel,
}

impl Lease {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Connection::Http1(http1) = &mut self.connection else {
            return;
        };
        let Some(mut http1) = http1.take().filter(|http1| !http1.sender.is_closed()) else {
            return;
        };
        let endpoint = self.in_flight.endpoint();
        let limit = endpoint.cluster().limits.requests_per_connection;
        if limit.is_some_and(|limit| http1.used >= limit) {
            return;
        }
        if http1.sender.is_ready() {
            endpoint.give(http1);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The request's body may still be on its way, or the connection's task has not run since.
            let endpoint = endpoint.clone();
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(IDLE, http1.sender.ready()).await {
                    endpoint.give(http1);
                }
            });
        }
    }
}

impl InFlight {
    /// Sends a request over HTTP/1; `fresh`: not over a connection that was used before.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_http1(
        self,
        connector: &Connector,
        mut request: Request<Body>,
        fresh: bool,
    ) -> Result<Response<Body>, SendError> {
        let pooled = (!fresh).then(|| self.endpoint().pool.take()).flatten();
        if let Some(mut http1) = pooled {
            match http1.send(request).await {
                Ok(response) => return Ok(self.leased(response, Connection::Http1(Some(http1)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        // Apart, so that the future of a request on a warm connection stays small: it is moved several times.
        let mut http1 = match Box::pin(self.endpoint().http1(connector)).await {
            Ok(http1) => http1,
            Err(error) => {
                request.into_body().discard();
                return Err(error);
            }
        };
        let response = http1.send(request).await.map_err(TrySendError::into_error)?;
        Ok(self.leased(response, Connection::Http1(Some(http1))))
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
        if request.method() == Method::CONNECT {
            return Box::pin(self.tunnel(connector, request)).await;
        }
        let mut left = ANOTHER_CONNECTION;
        loop {
            let per_connection = self.endpoint().cluster().limits.requests_per_connection;
            let (sender, stream) = match self.endpoint().pool.share(per_connection, false) {
                Some(shared) => shared,
                None => match Box::pin(self.endpoint().http2(connector)).await {
                    Ok(begun) => begun,
                    Err(error) => {
                        request.into_body().discard();
                        return Err(error);
                    }
                },
            };
            match http2::send(sender, &stream, request).await {
                Ok(response) => {
                    let lease = self.lease(Connection::Http2(stream));
                    return Ok(response.map(|stream| Body::stream(stream, lease)));
                }
                Err(Unanswered::Unsent(unsent, _)) if left > 0 => {
                    request = *unsent;
                    left -= 1;
                }
                Err(Unanswered::Unsent(unsent, error)) => {
                    unsent.into_body().discard();
                    return Err(error.into());
                }
                Err(Unanswered::Sent(error)) => return Err(error),
            }
        }
    }

    /// Sends a CONNECT over an HTTP/2 connection of its own: what passes then is no stream of messages.
    async fn tunnel(
        self,
        connector: &Connector,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let open = self.endpoint().room().await;
        let io = connector.connect(self.endpoint(), Purpose::Http).await?;
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::HEADER_LIST_BYTES)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(async move {
            let _ = connection.await;
            drop(open);
        });
        let response = sender.send_request(request).await?;
        Ok(self.leased(response, Connection::Tunnel))
    }

    fn lease(self, connection: Connection) -> Lease {
        Lease {
            in_flight: self,
            connection,
        }
    }

    fn leased(self, response: Response<Incoming>, connection: Connection) -> Response<Body> {
        let lease = self.lease(connection);
        response.map(|incoming| Body::leased(incoming, lease))
    }
}

impl Http1 {
    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        self.used = self.used.saturating_add(1);
        self.sender.try_send_request(request).await
    }
}

impl Endpoint {
    fn give(&self, http1: Http1) {
        self.pool.give(http1);
        if self.cluster().limits.connections.is_some() {
            self.usage.freed.notify_waiters();
        }
    }

    /// Room for one more connection; `None` when the cluster has as many as it may. Each endpoint may have one
    /// whatever the others hold, so that none is cut off.
    fn admit(&self) -> Option<Open> {
        let limits = &self.cluster().limits;
        let permit = match self.usage.take(Kind::Connections, limits) {
            Ok(permit) => permit,
            Err(_) if self.pool.open.load(Ordering::Acquire) == 0 => {
                self.usage.take_anyway(Kind::Connections, limits)
            }
            Err(_) => return None,
        };
        Some(Open::new(&self.pool, permit))
    }

    /// A new HTTP/1 connection, or one that others gave back while there was no room for a new one.
    async fn http1(&self, connector: &Connector) -> Result<Http1, SendError> {
        let _pending = self.usage.take(Kind::Pending, &self.cluster().limits)?;
        loop {
            let mut freed = pin!(self.usage.freed.notified());
            freed.as_mut().enable();
            if let Some(open) = self.admit() {
                return self.open_http1(connector, open).await;
            }
            if let Some(http1) = self.pool.take() {
                return Ok(http1);
            }
            freed.await;
        }
    }

    async fn open_http1(&self, connector: &Connector, open: Open) -> Result<Http1, SendError> {
        let io = connector.connect(self, Purpose::Http).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::HEADERS)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(async move {
            // An error reaches the request that suffers from it; an idle connection just ends.
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        Ok(Http1 { sender, used: 0 })
    }

    /// Waits for room for one more connection.
    async fn room(&self) -> Open {
        loop {
            let mut freed = pin!(self.usage.freed.notified());
            freed.as_mut().enable();
            if let Some(open) = self.admit() {
                return open;
            }
            freed.await;
        }
    }

    /// A stream on an HTTP/2 connection, a new one where those there are full.
    async fn http2(&self, connector: &Connector) -> Result<(SendRequest<Bytes>, Stream), SendError> {
        let breaker = &self.cluster().limits;
        let per_connection = breaker.requests_per_connection;
        let _pending = self.usage.take(Kind::Pending, breaker)?;
        let _opening = self.pool.opening.lock().await;
        if let Some(shared) = self.pool.share(per_connection, false) {
            return Ok(shared);
        }
        let open = loop {
            let mut freed = pin!(self.usage.freed.notified());
            freed.as_mut().enable();
            if let Some(open) = self.admit() {
                break open;
            }
            if let Some(shared) = self.pool.share(per_connection, true) {
                return Ok(shared);
            }
            freed.await;
        };
        let io = connector.connect(self, Purpose::Http).await?;
        let mut shared = Shared::open(io, open).await?;
        let begun = shared.begin();
        let spent = per_connection.is_some_and(|limit| shared.used >= limit);
        if !spent && !self.pool.retired.load(Ordering::Acquire) {
            self.pool.http2.lock().push(shared);
        }
        Ok(begun)
    }
}

#[cfg(test)]
mod tests;
