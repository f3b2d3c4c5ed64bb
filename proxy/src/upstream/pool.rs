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

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

use super::{
    ConnectError, Connector, Endpoint, InFlight, Overflow, Purpose,
    usage::{Kind, Permit},
};
use crate::{
    http::{Body, limits},
    reason::Reason,
    retry::Failure,
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
    /// The circuit breaker is open.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The connection broke, or what came back is not HTTP.
    #[error("the endpoint gave no response: {0}")]
    Http(#[from] hyper::Error),
}

impl SendError {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Overflow(_) => Reason::Overflow,
            Self::Http(error) if error.is_parse() => Reason::UpstreamProtocol,
            Self::Http(error) if error.is_user() => Reason::ClientReset,
            Self::Http(_) => Reason::UpstreamReset,
        }
    }

    /// Whether the connection broke before a response; what came back, if anything, was no nonsense.
    pub fn broke(&self) -> bool {
        matches!(self, Self::Http(error) if !error.is_parse() && !error.is_user())
    }

    /// What it says about the endpoint; `None`: nothing, the fault is on our side.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Connect(_) => Some(Failure::Connect),
            Self::Overflow(_) => None,
            Self::Http(error) if error.is_user() => None,
            Self::Http(error) if is_refused(error) => Some(Failure::RefusedStream),
            Self::Http(_) => Some(Failure::Reset),
        }
    }
}

fn is_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.reason() == Some(h2::Reason::REFUSED_STREAM))
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

struct Shared {
    sender: http2::SendRequest<Body>,
    streams: Arc<AtomicUsize>,
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

/// Counts as one request on an HTTP/2 connection while it lives.
struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn begin(&mut self) -> (http2::SendRequest<Body>, Stream) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.used = self.used.saturating_add(1);
        (self.sender.clone(), Stream(self.streams.clone()))
    }

    fn load(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
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
        self.http2.lock().retain(|shared| !shared.sender.is_closed());
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
    fn share(&self, limit: Option<u32>, crowded: bool) -> Option<(http2::SendRequest<Body>, Stream)> {
        let mut pooled = self.http2.lock();
        pooled.retain(|shared| !shared.sender.is_closed());
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
        let mut retried = false;
        loop {
            let per_connection = self.endpoint().cluster().limits.requests_per_connection;
            let (mut sender, stream) = match self.endpoint().pool.share(per_connection, false) {
                Some(shared) => shared,
                None => match Box::pin(self.endpoint().http2(connector)).await {
                    Ok(begun) => begun,
                    Err(error) => {
                        request.into_body().discard();
                        return Err(error);
                    }
                },
            };
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

    /// A stream on an HTTP/2 connection, a new one where those there are full.
    async fn http2(&self, connector: &Connector) -> Result<(http2::SendRequest<Body>, Stream), SendError> {
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
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::HEADER_LIST_BYTES)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(async move {
            let _ = connection.await;
            drop(open);
        });
        let mut shared = Shared {
            sender,
            streams: Arc::default(),
            used: 0,
        };
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
