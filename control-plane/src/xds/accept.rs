//! The TLS listener: proves who a client is, by its certificate, before gRPC sees it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{
    Metrics,
    connection::{self, End, Services},
    pace::{Paces, Passed, Rate},
};
use crate::certificates::Serving;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once.
const HANDSHAKES: usize = 256;
/// Of those, handshakes with one address: a client that opens connections and says nothing stops nobody else.
const HANDSHAKES_PER_ADDRESS: usize = 32;
/// Connections whose handshake is under way or waits for its turn; further clients wait in the kernel's queue.
const WAITING: usize = 16 * 1024;
/// Of those, connections of one address. Many proxies may come from one, through a NAT.
const WAITING_PER_ADDRESS: usize = 6 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections with one certificate. A proxy keeps one open.
const CONNECTIONS: Rate = Rate {
    burst: 16,
    interval: Duration::from_secs(1),
};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// What its certificate says, verified against the roots of the mesh; `None`: it showed none.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// The names in a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's common name: the pod's UID.
    pub common_name: String,
    /// The URI SANs: the SPIFFE identity.
    pub uris: Vec<String>,
}

/// Lets proxies in.
#[derive(Clone)]
pub struct Door {
    serving: Arc<Serving>,
    services: Services,
    metrics: Metrics,
    handshakes: Arc<Semaphore>,
    paces: Arc<Paces>,
    stop: CancellationToken,
}

impl Door {
    /// Opens connections to these services until told to stop.
    pub fn new(serving: Arc<Serving>, services: Services, metrics: Metrics, stop: CancellationToken) -> Self {
        Self {
            serving,
            services,
            metrics,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            paces: Arc::new(Paces::new(CONNECTIONS)),
            stop,
        }
    }

    /// Serves connections until told to stop, and then until they have ended. When many come at once they wait for
    /// their turn; a connection is refused only when its address has very many waiting.
    pub async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(WAITING));
        let queues = Arc::new(Queues::default());
        let connections = TaskTracker::new();
        while let Ok(place) = places.clone().acquire_owned().await {
            let (stream, address) = tokio::select! {
                () = self.stop.cancelled() => break,
                next = listener.accept() => match next {
                    Ok(next) => next,
                    Err(error) => {
                        warn!(%error, "cannot accept connections; is the limit of open files too low?");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let Some(ticket) = queues.begin(address.ip()) else {
                self.metrics.handshakes_failed.inc();
                debug!(peer = %address, "too many connections of this address wait");
                continue;
            };
            connections.spawn(self.clone().pass(stream, address, (ticket, place)));
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    /// Waits for a turn, shakes hands and serves the connection. The turn is over once something is asked for: a
    /// client that never asks holds it as one does that never shakes hands.
    async fn pass(
        self,
        stream: TcpStream,
        address: SocketAddr,
        (ticket, place): (Ticket, OwnedSemaphorePermit),
    ) {
        // What is only needed until then is gone while the connection lives.
        let let_in = Box::pin(self.let_in(stream, address, &ticket));
        let Some(Some((stream, peer, turn))) = self.stop.run_until_cancelled(let_in).await else {
            return;
        };
        let (services, stop) = (self.services.clone(), self.stop.clone());
        let opened = (turn, ticket, place);
        let ended = connection::serve(stream, peer, services, opened, stop).await;
        if ended == End::NeverUsed {
            self.metrics.refuse("no_stream");
        }
    }

    /// `None`: the client is not let in.
    async fn let_in(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        ticket: &Ticket,
    ) -> Option<(TlsStream<TcpStream>, Peer, OwnedSemaphorePermit)> {
        // First among its address, then among all. Nobody closes these semaphores.
        let turn = ticket.turns.clone().acquire_owned().await.ok()?;
        let permit = self.handshakes.acquire().await.ok()?;
        let handshake = timeout(HANDSHAKE_TIMEOUT, handshake(stream, address, &self.serving)).await;
        drop(permit);
        let (stream, peer) = handshake
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .inspect_err(|error| {
                self.metrics.handshakes_failed.inc();
                debug!(peer = %address, %error, "TLS handshake failed");
            })
            .ok()?;
        if let Some(certificate) = &peer.certificate {
            let pod = &certificate.common_name;
            let passed = self.paces.pass(pod).await;
            self.metrics.paced("connection", pod, passed);
            if passed == Passed::Displaced {
                drop(stream);
                // Its address keeps the turn, and shakes hands more slowly.
                sleep(CONNECTIONS.interval).await;
                return None;
            }
        }
        Some((stream, peer, turn))
    }
}

/// Connections under way, by address.
#[derive(Default)]
struct Queues(Mutex<HashMap<IpAddr, Queue>>);

struct Queue {
    waiting: usize,
    turns: Arc<Semaphore>,
}

/// One connection's place, while it lives.
struct Ticket {
    queues: Arc<Queues>,
    address: IpAddr,
    turns: Arc<Semaphore>,
}

impl Queues {
    /// One more of this address; `None`: it has as many as it may.
    fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Ticket> {
        let address = address.to_canonical();
        let mut queues = self.0.lock();
        let queue = queues.entry(address).or_insert_with(|| Queue {
            waiting: 0,
            turns: Arc::new(Semaphore::new(HANDSHAKES_PER_ADDRESS)),
        });
        if queue.waiting >= WAITING_PER_ADDRESS {
            return None;
        }
        queue.waiting += 1;
        Some(Ticket {
            queues: self.clone(),
            address,
            turns: queue.turns.clone(),
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock();
        if let Some(queue) = queues.get_mut(&self.address) {
            queue.waiting -= 1;
            if queue.waiting == 0 {
                queues.remove(&self.address);
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    serving: &Serving,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(serving.config()).accept(stream).await?;
    let certificate = match stream.get_ref().1.peer_certificates() {
        Some([leaf, ..]) => Some(Arc::new(read(leaf)?)),
        _ => None,
    };
    Ok((stream, Peer { address, certificate }))
}

fn read(der: &[u8]) -> io::Result<PeerCertificate> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| invalid(error.to_string()))?;
    let common_name = certificate
        .subject()
        .iter_common_name()
        .find_map(|name| name.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| invalid(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(PeerCertificate {
        common_name,
        uris: uris.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place_or_turn() {
        let queues = Arc::new(Queues::default());
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut tickets: Vec<_> = std::iter::from_fn(|| queues.begin(greedy))
            .take(WAITING)
            .collect();
        assert_eq!(tickets.len(), WAITING_PER_ADDRESS);
        let turns: Vec<_> = tickets
            .iter()
            .map_while(|it| it.turns.try_acquire().ok())
            .collect();
        assert_eq!(turns.len(), HANDSHAKES_PER_ADDRESS);
        assert!(queues.begin(other).unwrap().turns.try_acquire().is_ok());
        drop(turns);
        tickets.pop();
        assert!(queues.begin(greedy).is_some());
        tickets.clear();
        assert!(queues.0.lock().is_empty());
    }
}
