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
/// Handshakes under way at once; further clients wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Of those, handshakes with one address: a client that opens connections and says nothing stops nobody else.
const HANDSHAKES_PER_ADDRESS: usize = 32;
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
    /// Accepts connections until told to stop.
    pub fn incoming(
        listener: TcpListener,
        serving: Arc<Serving>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> impl Stream<Item = io::Result<Self>> {
        let (accepted, incoming) = mpsc::channel(16);
        tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(HANDSHAKES));
            let under_way = Arc::new(UnderWay::default());
            loop {
                let Ok(permit) = permits.clone().acquire_owned().await else {
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
                let Some(ticket) = under_way.begin(address.ip()) else {
                    metrics.handshakes_failed.inc();
                    debug!(peer = %address, "too many handshakes with this address at a time");
                    continue;
                };
                let (serving, accepted, metrics) = (serving.clone(), accepted.clone(), metrics.clone());
                tokio::spawn(async move {
                    let handshake = timeout(HANDSHAKE_TIMEOUT, handshake(stream, address, &serving)).await;
                    drop((permit, ticket));
                    match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                        Ok(connection) => drop(accepted.send(Ok(connection)).await),
                        Err(error) => {
                            metrics.handshakes_failed.inc();
                            debug!(peer = %address, %error, "TLS handshake failed");
                        }
                    }
                });
            }
        });
        ReceiverStream::new(incoming)
    }
}

/// Handshakes under way, by address.
#[derive(Default)]
struct UnderWay(Mutex<HashMap<IpAddr, usize>>);

/// One of them, while it lives.
struct Ticket(Arc<UnderWay>, IpAddr);

impl UnderWay {
    /// One more with this address; `None`: it has as many as it may.
    fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Ticket> {
        let address = address.to_canonical();
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= HANDSHAKES_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Ticket(self.clone(), address))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock();
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
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
    fn one_address_cannot_take_every_handshake() {
        let under_way = Arc::new(UnderWay::default());
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut tickets: Vec<_> = std::iter::from_fn(|| under_way.begin(greedy))
            .take(HANDSHAKES)
            .collect();
        assert_eq!(tickets.len(), HANDSHAKES_PER_ADDRESS);
        assert!(under_way.begin(other).is_some());
        tickets.pop();
        assert!(under_way.begin(greedy).is_some());
        tickets.clear();
        assert!(under_way.0.lock().is_empty());
    }
}
