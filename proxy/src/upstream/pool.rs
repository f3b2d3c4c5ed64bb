//! The HTTP connections to one endpoint.
//!
//! HTTP/1 connections are taken and given back last-in first-out, so that the least number stays warm. HTTP/2
//! connections are shared up to [`STREAMS`] requests each; more load opens more connections, since all streams of
//! one connection share one lock. Under load HTTP/1 requests share HTTP/2 connections too, between sidecars
//! ([`carrier`]).

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

use super::{Connector, Endpoint, InFlight, Purpose, usage::Kind};
use crate::http::{Body, limits};
use carried::Unsent;
use carrier::{Carriers, Found};
pub use error::SendError;
use http1::Idle;
use http2::{Shared, Stream, Unanswered};
use lease::Connection;
pub use lease::Lease;
use open::Open;
pub use passage::Passage;

mod carried;
mod carrier;
mod error;
mod http1;
mod http2;
mod lease;
mod open;
mod passage;
mod ride;

/// Further connections for a request of which nothing was sent, since the one taken was about to end.
const ANOTHER_CONNECTION: u32 = 3;
/// Requests at a time on one HTTP/2 connection.
const STREAMS: usize = limits::SHARED_STREAMS as usize;
/// A pooled connection idle for longer is not used again: the peer may be about to close it.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Pool {
    retired: AtomicBool,
    http1: Mutex<VecDeque<Idle>>,
    http2: Mutex<Vec<Shared>>,
    /// What carries HTTP/1 requests.
    carriers: Carriers,
    /// What carries opaque connections.
    tunnels: Carriers,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one and not one for each request.
    opening: tokio::sync::Mutex<()>,
    open: Arc<AtomicUsize>,
}

impl Pool {
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let idle = std::mem::take(&mut *self.http1.lock());
        idle.into_iter().for_each(Idle::close);
        self.http2.lock().clear();
        self.carriers.retire();
        self.tunnels.retire();
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn sweep(&self) {
        let mut idle = self.http1.lock();
        idle.retain_mut(Idle::is_usable);
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
        drop(idle);
        self.http2.lock().retain(|shared| !shared.is_closed());
        self.carriers.sweep();
        self.tunnels.sweep();
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

impl InFlight {
    /// Sends a request over HTTP/2.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_http2(
        self,
        connector: &Connector,
        head: &Request<()>,
        body: Body,
    ) -> Result<Response<Body>, SendError> {
        if head.method() == Method::CONNECT {
            Box::pin(self.tunnel(connector, head, body)).await
        } else if self.endpoint().carries() {
            self.send_to_sidecar(connector, head, body).await
        } else {
            Box::pin(self.send_to_anyone(connector, head, body)).await
        }
    }

    /// Sends a request over HTTP/2 to another sidecar, or to what turns out to be none.
    async fn send_to_sidecar(
        mut self,
        connector: &Connector,
        head: &Request<()>,
        mut body: Body,
    ) -> Result<Response<Body>, SendError> {
        for _ in 0..=ANOTHER_CONNECTION {
            let ride = match self.ride(connector, Purpose::Shared).await {
                Ok(Found::Ride(ride)) => ride,
                Ok(Found::Foreign(io, open)) => {
                    let shared = Shared::open(io, open).await?;
                    self.endpoint().keep(shared);
                    break;
                }
                Ok(Found::Nothing) => break,
                Err(error) => {
                    body.discard();
                    return Err(error);
                }
            };
            (self, body) = match self.send_along(ride, head, None, body).await {
                Ok(response) => return Ok(response),
                Err(Unsent::Body(in_flight, body)) => (in_flight, body),
                Err(Unsent::Never(error)) => return Err(error),
            };
        }
        Box::pin(self.send_to_anyone(connector, head, body)).await
    }

    async fn send_to_anyone(
        self,
        connector: &Connector,
        head: &Request<()>,
        mut body: Body,
    ) -> Result<Response<Body>, SendError> {
        let mut left = ANOTHER_CONNECTION;
        loop {
            let per_connection = self.endpoint().cluster().limits.requests_per_connection;
            let (sender, stream) = match self.endpoint().pool.share(per_connection, false) {
                Some(shared) => shared,
                None => match Box::pin(self.endpoint().http2(connector)).await {
                    Ok(begun) => begun,
                    Err(error) => {
                        body.discard();
                        return Err(error);
                    }
                },
            };
            match http2::send(sender, &stream, head, body).await {
                Ok(response) => {
                    let lease = self.lease(Connection::Http2(stream));
                    return Ok(response.map(|stream| Body::stream(stream, lease)));
                }
                Err(Unanswered::Unsent(unsent, _)) if left > 0 => {
                    body = unsent;
                    left -= 1;
                }
                Err(Unanswered::Unsent(unsent, error)) => {
                    unsent.discard();
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
        head: &Request<()>,
        body: Body,
    ) -> Result<Response<Body>, SendError> {
        let open = self.endpoint().room().await;
        let io = connector.connect(self.endpoint(), Purpose::Http).await?.io;
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
        let response = sender.send_request(head.clone().map(|()| body)).await?;
        let lease = self.lease(Connection::Tunnel);
        Ok(response.map(|incoming| Body::tunnelled(incoming, lease)))
    }
}

impl Endpoint {
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
        let io = self.connect(connector).await?;
        let mut shared = Shared::open(io, open).await?;
        let begun = shared.begin();
        let spent = per_connection.is_some_and(|limit| shared.used >= limit);
        if !spent {
            self.keep(shared);
        }
        Ok(begun)
    }

    fn keep(&self, shared: Shared) {
        if !self.pool.is_retired() {
            self.pool.http2.lock().push(shared);
        }
    }
}

#[cfg(test)]
mod tests;
