//! HTTP/2 connections that carry HTTP/1 requests to another sidecar.
//!
//! Few requests at a time go over HTTP/1, which answers each of them sooner; more share a connection. Whether the
//! endpoint takes them so shows in the TLS handshake of any connection to it. Whatever is in doubt goes over HTTP/1.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use parking_lot::Mutex;

use super::{
    super::{Connector, Endpoint, InFlight, Purpose, usage::Kind},
    IDLE, STREAMS, SendError,
    http1::Http1,
    http2::{self, Shared, Stream, Unanswered},
    lease::Connection,
    open::Open,
};
use crate::{
    http::{Body, carried},
    model::AppProtocol,
};

/// So many requests at a time go over HTTP/1.
const FEW: u32 = 4;
/// A connection that has given no response for so long while some were due takes no more requests until it does: its
/// peer may be gone, and only requests that begin another connection find out soon.
const QUIET: Duration = Duration::from_secs(3);

/// Whether an endpoint takes HTTP/1 requests over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Takes {
    /// No connection has shown it yet.
    Unknown,
    Yes,
    /// It does not, or there is no connection to be had.
    No,
}

/// The connections that carry HTTP/1 requests to one endpoint.
pub(super) struct Carriers {
    takes: AtomicU8,
    connections: Mutex<Vec<Carrier>>,
    /// Held while one is opened, so that a burst opens few.
    opening: tokio::sync::Mutex<()>,
    began: Instant,
}

struct Carrier {
    shared: Shared,
    /// When it gave the last response, or began to owe one. In milliseconds since [`Carriers::began`].
    heard: Arc<AtomicU64>,
}

/// One request's part of a connection.
struct Ride {
    sender: SendRequest<Bytes>,
    stream: Stream,
    heard: Arc<AtomicU64>,
}

/// What a request is sent over.
enum Found {
    Ride(Ride),
    /// What was opened turned out to be one for HTTP/1.
    Http1(Http1),
    /// Nothing: it goes the way of HTTP/1.
    Nothing,
}

impl Default for Carriers {
    fn default() -> Self {
        Self {
            takes: AtomicU8::new(Takes::Unknown as u8),
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Carriers {
    /// Takes in what a new connection has shown, or that there was none to be had.
    pub(super) fn learn(&self, takes: bool) {
        let takes = if takes { Takes::Yes } else { Takes::No };
        self.takes.store(takes as u8, Ordering::Release);
    }

    fn are_refused(&self) -> bool {
        self.takes.load(Ordering::Acquire) == Takes::No as u8
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn share(&self) -> Option<Ride> {
        let now = self.now();
        let mut connections = self.connections.lock();
        connections.retain(|carrier| !carrier.shared.is_closed());
        let free = connections.iter_mut().find(|carrier| carrier.is_free(now))?;
        Some(free.begin(now))
    }

    pub(super) fn retire(&self) {
        self.connections.lock().clear();
    }

    pub(super) fn sweep(&self) {
        let now = self.now();
        self.connections
            .lock()
            .retain(|carrier| !carrier.shared.is_closed() && !carrier.is_idle(now));
    }
}

impl Carrier {
    fn unheard(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.heard.load(Ordering::Relaxed)))
    }

    fn is_free(&self, now: u64) -> bool {
        let load = self.shared.load();
        load == 0 || load < STREAMS && self.unheard(now) < QUIET
    }

    fn is_idle(&self, now: u64) -> bool {
        self.shared.load() == 0 && self.unheard(now) >= IDLE
    }

    fn begin(&mut self, now: u64) -> Ride {
        if self.shared.load() == 0 {
            self.heard.store(now, Ordering::Relaxed);
        }
        let (sender, stream) = self.shared.begin();
        Ride {
            sender,
            stream,
            heard: self.heard.clone(),
        }
    }
}

impl Endpoint {
    /// Whether its connections may carry HTTP/1 requests, if the other side is a sidecar that takes them. Where
    /// connections are limited they are those of HTTP/1: one for each request.
    pub(in crate::upstream) fn may_be_carried_to(&self) -> bool {
        let cluster = self.cluster();
        let mutual = cluster.tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
        mutual
            && cluster.protocol == AppProtocol::Downstream
            && cluster.limits.connections.is_none()
            && cluster.limits.requests_per_connection.is_none()
    }

    /// A ride on a new connection, or on one that had room by the time it would have been opened.
    async fn carrier(&self, connector: &Connector) -> Result<Found, SendError> {
        let carriers = &self.pool.carriers;
        let _pending = self.usage.take(Kind::Pending, &self.cluster().limits)?;
        let _opening = carriers.opening.lock().await;
        if carriers.are_refused() {
            return Ok(Found::Nothing);
        }
        if let Some(ride) = carriers.share() {
            return Ok(Found::Ride(ride));
        }
        let Some(open) = self.admit() else {
            return Ok(Found::Nothing);
        };
        let opened = self.open_carrier(connector, open).await;
        if opened.is_err() {
            // Those who wait behind this one need not fail one after the other.
            carriers.learn(false);
        }
        opened
    }

    async fn open_carrier(&self, connector: &Connector, open: Open) -> Result<Found, SendError> {
        let carriers = &self.pool.carriers;
        let opened = connector.connect(self, Purpose::Http1).await?;
        carriers.learn(opened.carries);
        if !opened.carries {
            return Ok(Found::Http1(Http1::new(opened.io, open)));
        }
        let mut carrier = Carrier {
            shared: Shared::open(opened.io, open).await?,
            heard: Arc::default(),
        };
        let ride = carrier.begin(carriers.now());
        if !self.pool.is_retired() {
            carriers.connections.lock().push(carrier);
        }
        Ok(Found::Ride(ride))
    }
}

impl InFlight {
    /// Whether an HTTP/1 request had better share a connection, if it can be carried.
    pub fn is_crowded(&self) -> bool {
        let endpoint = self.endpoint();
        endpoint.in_flight() > FEW && endpoint.may_be_carried_to() && !endpoint.pool.carriers.are_refused()
    }

    /// Sends an HTTP/1 request over HTTP/2, or over HTTP/1 where that cannot be.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_carried(
        self,
        connector: &Connector,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<Body>, SendError> {
        let ride = match self.endpoint().pool.carriers.share() {
            Some(ride) => ride,
            None => match Box::pin(self.endpoint().carrier(connector)).await {
                Ok(Found::Ride(ride)) => ride,
                Ok(Found::Http1(http1)) => return Box::pin(self.send_over(http1, request)).await,
                Ok(Found::Nothing) => return Box::pin(self.send_http1(connector, request, false)).await,
                Err(error) => {
                    request.into_body().discard();
                    return Err(error);
                }
            },
        };
        carried::load(&mut request);
        match http2::send(ride.sender, &ride.stream, request).await {
            Ok(response) => {
                let now = self.endpoint().pool.carriers.now();
                ride.heard.store(now, Ordering::Relaxed);
                let lease = self.lease(Connection::Http2(ride.stream));
                let mut response = response.map(|stream| Body::stream(stream, lease));
                carried::open(&mut response);
                Ok(response)
            }
            // The connection was about to end, perhaps with its peer: what comes next must not meet the same.
            Err(Unanswered::Unsent(mut unsent, _)) => {
                carried::unload(&mut unsent);
                Box::pin(self.send_http1(connector, unsent, false)).await
            }
            Err(Unanswered::Sent(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{
        net::Io,
        upstream::{pool::Pool, usage::Usage},
    };

    async fn shared() -> Shared {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while connection.accept().await.is_some() {}
        });
        let io = Io::Opened(TcpStream::connect(address).await.unwrap());
        let usage = Arc::<Usage>::default();
        let permit = usage.take(Kind::Connections, &Default::default()).unwrap();
        Shared::open(io, Open::new(&Pool::default(), permit))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_owes_responses_for_long_takes_no_more_requests() {
        let carriers = Carriers {
            began: Instant::now() - 2 * IDLE,
            ..Carriers::default()
        };
        let heard = Arc::<AtomicU64>::default();
        let carrier = Carrier {
            shared: shared().await,
            heard: heard.clone(),
        };
        carriers.connections.lock().push(carrier);
        let first = carriers.share().unwrap();
        let second = carriers.share().unwrap();
        let unheard = heard.swap(0, Ordering::Relaxed);
        assert!(carriers.share().is_none());
        carriers.sweep();
        heard.store(unheard, Ordering::Relaxed);
        assert!(carriers.share().is_some());
        drop((first, second));
        heard.store(0, Ordering::Relaxed);
        assert!(carriers.share().is_some());
        carriers.sweep();
        assert!(carriers.share().is_some());
        heard.store(0, Ordering::Relaxed);
        carriers.sweep();
        assert!(carriers.share().is_none());
    }
}
