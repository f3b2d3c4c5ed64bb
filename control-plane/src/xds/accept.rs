//! The TLS listener: proves who a client is, by its certificate, before gRPC sees it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, warn};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::Metrics;
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

/// A connection whose handshake is done.
pub struct Accept {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Accept {
    /// Accepts connections until told to stop. When many come at once they wait for their turn; a connection is
    /// refused only when its address has very many waiting.
    pub fn incoming(
        listener: TcpListener,
        serving: Arc<Serving>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> impl Stream<Item = io::Result<Self>> {
        let (accepted, incoming) = mpsc::channel(16);
        let door = Door {
            serving,
            metrics,
            accepted,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        };
        tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(WAITING));
            let queues = Arc::new(Queues::default());
            loop {
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                let (stream, address) = tokio::select! {
                    () = stop.cancelled() => return,
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
                    door.metrics.handshakes_failed.inc();
                    debug!(peer = %address, "too many connections of this address wait");
                    continue;
                };
                let (door, stop) = (door.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = door.pass(stream, address, ticket) => {}
                        () = stop.cancelled() => {}
                    }
                    drop(place);
                });
            }
        });
        ReceiverStream::new(incoming)
    }
}

/// What every handshake needs.
#[derive(Clone)]
struct Door {
    serving: Arc<Serving>,
    metrics: Metrics,
    accepted: mpsc::Sender<io::Result<Accept>>,
    handshakes: Arc<Semaphore>,
}

impl Door {
    /// Waits for a turn, shakes hands and hands the connection on.
    async fn pass(&self, stream: TcpStream, address: SocketAddr, ticket: Ticket) {
        // First among its address, then among all. Nobody closes these semaphores.
        let (Ok(turn), Ok(permit)) = (ticket.turns.acquire().await, self.handshakes.acquire().await) else {
            return;
        };
        let handshake = timeout(HANDSHAKE_TIMEOUT, handshake(stream, address, &self.serving)).await;
        drop((permit, turn));
        drop(ticket);
        match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(connection) => drop(self.accepted.send(Ok(connection)).await),
            Err(error) => {
                self.metrics.handshakes_failed.inc();
                debug!(peer = %address, %error, "TLS handshake failed");
            }
        }
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

async fn handshake(stream: TcpStream, address: SocketAddr, serving: &Serving) -> io::Result<Accept> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(serving.config()).accept(stream).await?;
    let certificate = match stream.get_ref().1.peer_certificates() {
        Some([leaf, ..]) => Some(Arc::new(read(leaf)?)),
        _ => None,
    };
    Ok(Accept {
        stream,
        peer: Peer { address, certificate },
    })
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

impl Connected for Accept {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accept {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
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
