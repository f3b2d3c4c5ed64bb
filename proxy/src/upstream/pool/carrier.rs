//! HTTP/2 connections to another sidecar, which carry HTTP/1 requests too, and others which carry opaque connections.
//! Whether an endpoint takes what is carried shows in the TLS handshake.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    super::{Connector, Endpoint, InFlight, Purpose, usage::Kind},
    IDLE, Pool, STREAMS, SendError,
    open::Open,
    ride::{Load, Ride, Tally},
};
use crate::{
    http2::{self, Client},
    net::Io,
};

/// An endpoint that did not take what is carried is asked again after this: there may be another sidecar by then.
const REFUSED: Duration = Duration::from_secs(10);
/// A connection takes nothing more after this: whoever its peer is, it has proved that in the handshake.
const AGE: Duration = Duration::from_secs(600);

/// The connections that carry requests, or connections, to one endpoint.
pub(super) struct Carriers {
    /// Until when it is taken for one that does not take them. In milliseconds since it was known.
    refused: AtomicU64,
    connections: Mutex<Vec<Carrier>>,
    /// Held while one is opened, so that a burst opens few.
    opening: tokio::sync::Mutex<()>,
    began: Instant,
}

struct Carrier {
    client: Client,
    tally: Arc<Tally>,
    /// When it was opened. In milliseconds since its endpoint was known.
    began: u64,
}

/// What a request is sent over, or a connection.
pub(super) enum Found {
    Ride(Ride),
    /// A new connection, to one who does not take what is carried.
    Foreign(Io, Open),
    /// Nothing: it goes the way that anyone understands.
    Nothing,
}

impl Default for Carriers {
    fn default() -> Self {
        Self {
            refused: AtomicU64::new(0),
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Carriers {
    /// Takes in what a new connection has shown, or that there was none to be had.
    pub(super) fn learn(&self, takes: bool) {
        let refused = match takes {
            true => 0,
            false => self
                .now()
                .saturating_add(u64::try_from(REFUSED.as_millis()).unwrap_or(u64::MAX)),
        };
        self.refused.store(refused, Ordering::Release);
    }

    pub(super) fn are_refused(&self) -> bool {
        let refused = self.refused.load(Ordering::Acquire);
        refused > 0 && self.now() < refused
    }

    /// Whether one is there.
    pub(super) fn are_there(&self) -> bool {
        !self.connections.lock().is_empty()
    }

    /// The time, in milliseconds since its endpoint was known.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn share(&self) -> Option<Ride> {
        let now = self.now();
        let mut connections = self.connections.lock();
        connections.retain(|carrier| !carrier.client.is_closed());
        let free = connections.iter().find(|carrier| carrier.is_free(now))?;
        Some(free.begin(now))
    }

    pub(super) fn retire(&self) {
        self.connections.lock().clear();
    }

    pub(super) fn sweep(&self) {
        let now = self.now();
        self.connections
            .lock()
            .retain(|carrier| !carrier.client.is_closed() && !carrier.is_idle(now));
    }
}

impl Carrier {
    /// Begins HTTP/2 on a connection, and drives it until it ends; `open` counts as long.
    fn new(io: Io, open: Open, now: u64) -> Self {
        let (client, connection) = http2::connect(io);
        tokio::spawn(async move {
            // An error reaches the requests that suffer from it.
            let _ = connection.await;
            drop(open);
        });
        Self {
            client,
            tally: Arc::default(),
            began: now,
        }
    }

    fn load(&self) -> usize {
        self.tally.requests.load(Ordering::Relaxed)
    }

    /// Whether there is room. A connection whose peer may be gone takes nothing more: only those that begin another
    /// find out soon.
    fn is_free(&self, now: u64) -> bool {
        self.load() < STREAMS && !self.client.is_quiet() && since(self.began, now) < AGE
    }

    fn is_idle(&self, now: u64) -> bool {
        let used = self.tally.used.load(Ordering::Relaxed);
        self.load() == 0 && (since(used, now) >= IDLE || since(self.began, now) >= AGE)
    }

    fn begin(&self, now: u64) -> Ride {
        Ride {
            client: self.client.clone(),
            load: Load::new(self.tally.clone(), now),
        }
    }
}

fn since(then: u64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(then))
}

impl Pool {
    fn carriers(&self, purpose: Purpose) -> &Carriers {
        match purpose {
            Purpose::Tunnels => &self.tunnels,
            _ => &self.carriers,
        }
    }
}

impl Endpoint {
    /// A ride on a new connection, or on one that had room by the time it would have been opened.
    async fn carrier(&self, connector: &Connector, purpose: Purpose) -> Result<Found, SendError> {
        let carriers = self.pool.carriers(purpose);
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
        let opened = self.open_carrier(connector, purpose, open).await;
        if opened.is_err() {
            // Those who wait behind this one need not fail one after the other.
            carriers.learn(false);
        }
        opened
    }

    async fn open_carrier(
        &self,
        connector: &Connector,
        purpose: Purpose,
        open: Open,
    ) -> Result<Found, SendError> {
        let carriers = self.pool.carriers(purpose);
        let opened = connector.connect(self, purpose).await?;
        carriers.learn(opened.carries);
        if !opened.carries {
            return Ok(Found::Foreign(opened.io, open));
        }
        let now = carriers.now();
        let carrier = Carrier::new(opened.io, open, now);
        let ride = carrier.begin(now);
        if !self.pool.is_retired() {
            carriers.connections.lock().push(carrier);
        }
        Ok(Found::Ride(ride))
    }
}

impl InFlight {
    /// A connection for one more request, or for one more connection.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) async fn ride(&self, connector: &Connector, purpose: Purpose) -> Result<Found, SendError> {
        match self.endpoint().pool.carriers(purpose).share() {
            Some(ride) => Ok(Found::Ride(ride)),
            None => Box::pin(self.endpoint().carrier(connector, purpose)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use http::Request;

    use super::*;
    use crate::{http::Body, upstream::usage::Usage};

    /// A carrier to a peer that says no word.
    async fn carrier() -> (Carrier, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let usage = Arc::<Usage>::default();
        let permit = usage.take(Kind::Connections, &Default::default()).unwrap();
        let open = Open::new(&Pool::default(), permit);
        (Carrier::new(Io::Opened(io), open, 0), peer)
    }

    #[tokio::test]
    async fn a_connection_whose_peer_may_be_gone_takes_no_more_requests() {
        let carriers = Carriers::default();
        let (carrier, mut peer) = carrier().await;
        carriers.connections.lock().push(carrier);
        let ride = carriers.share().unwrap();
        let client = ride.client.clone();
        tokio::time::pause();
        tokio::spawn(async move {
            let head = Request::new(());
            ride.client.send(&head, None, Body::empty()).await.is_ok()
        });
        until(|| client.is_quiet()).await;
        assert!(carriers.share().is_none());
        peer.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        until(|| !client.is_quiet()).await;
        assert!(carriers.share().is_some());
    }

    async fn until(is: impl Fn() -> bool) {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_connection_that_no_one_uses_is_let_go() {
        let carriers = Carriers {
            began: Instant::now() - 2 * IDLE,
            ..Carriers::default()
        };
        let (carrier, _peer) = carrier().await;
        let tally = carrier.tally.clone();
        carriers.connections.lock().push(carrier);
        let used = carriers.share().unwrap();
        tally.used.store(0, Ordering::Relaxed);
        carriers.sweep();
        assert!(carriers.share().is_some());
        drop(used);
        carriers.sweep();
        assert!(carriers.share().is_some());
        tally.used.store(0, Ordering::Relaxed);
        carriers.sweep();
        assert!(carriers.share().is_none());
    }

    #[tokio::test]
    async fn an_old_connection_takes_nothing_more() {
        let carriers = Carriers {
            began: Instant::now() - 2 * AGE,
            ..Carriers::default()
        };
        let (carrier, _peer) = carrier().await;
        let client = carrier.client.clone();
        let in_use = carrier.begin(carriers.now());
        carriers.connections.lock().push(carrier);
        assert!(carriers.share().is_none());
        carriers.sweep();
        assert!(carriers.are_there(), "what it has begun goes on");
        assert!(!client.is_closed());
        drop(in_use);
        carriers.sweep();
        assert!(!carriers.are_there());
    }

    #[test]
    fn who_refused_is_asked_again() {
        let mut carriers = Carriers::default();
        carriers.learn(false);
        assert!(carriers.are_refused());
        carriers.began -= REFUSED;
        assert!(!carriers.are_refused());
        carriers.learn(false);
        carriers.learn(true);
        assert!(!carriers.are_refused());
    }
}
