//! Opening a connection to an endpoint: TCP, then TLS pinned to the endpoint's identity.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Endpoint;
use crate::{
    model::Direction,
    net::{DialError, Dialer, Io, Replay},
    reason::Reason,
    telemetry::{Connections, Handshakes, Telemetry},
    tls::{BYTES, Carried, ClientSide, HandshakeError, Pin},
};

const CARRYING: &str = Carried::Requests.suffix();
const TUNNELLING: &str = Carried::Connections.suffix();

/// What the connection is for; told to the peer by ALPN, so that it need not look at the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// HTTP of any version.
    Http,
    /// The same, where HTTP/2 may carry HTTP/1: each protocol `x` of the cluster is offered as `x-h1h2` first.
    Shared,
    /// Bytes of any kind: each protocol `x` of the cluster is offered as `x-tcp` first.
    Opaque,
    /// Opaque connections, several at a time where HTTP/2 may carry them: each `x` is offered as `x-tcp-connect` and
    /// `x-connect` first, and then as for one of them.
    Tunnels,
}

impl Purpose {
    /// What HTTP/2 is asked to carry.
    fn carried(self) -> Option<Carried> {
        match self {
            Self::Http | Self::Opaque => None,
            Self::Shared => Some(Carried::Requests),
            Self::Tunnels => Some(Carried::Connections),
        }
    }

    fn alpn(self, names: &[String]) -> SmallVec<[String; 4]> {
        let suffixes: &[&[&str]] = match self {
            Self::Http => &[&[]],
            Self::Shared => &[&[CARRYING], &[]],
            Self::Opaque => &[&[BYTES], &[]],
            Self::Tunnels => &[&[BYTES, TUNNELLING], &[TUNNELLING], &[BYTES], &[]],
        };
        let suffixed = suffixes.iter().flat_map(|suffix| {
            let suffix = suffix.concat();
            names.iter().map(move |name| [name, &*suffix].concat())
        });
        suffixed.collect()
    }
}

/// A connection to an endpoint.
pub struct Opened {
    /// The bytes.
    pub io: Io,
    /// Whether HTTP/2 carries over it what it was opened for.
    pub carries: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS failed; the peer's identity may be another than the endpoint's.
    #[error("TLS with {address} failed: {source}")]
    Tls {
        /// The endpoint.
        address: SocketAddr,
        /// What went wrong.
        source: HandshakeError,
    },
}

impl ConnectError {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dial(DialError::Failed(..)) => Reason::ConnectFailed,
            Self::Dial(DialError::Timeout(..)) => Reason::ConnectTimeout,
            Self::Tls { source, .. } => match source {
                HandshakeError::Timeout(_) => Reason::ConnectTimeout,
                _ => Reason::UpstreamTls,
            },
        }
    }
}

/// Opens connections to endpoints.
#[derive(Clone, Debug)]
pub struct Connector {
    dialer: Dialer,
    handshakes: Handshakes,
    connections: Connections,
}

impl Connector {
    /// With the socket options of `dialer`; connections and handshakes are counted.
    pub fn new(dialer: Dialer, telemetry: &Telemetry) -> Self {
        Self {
            dialer,
            handshakes: telemetry.handshakes.clone(),
            connections: telemetry.connections.clone(),
        }
    }

    /// Connects within the cluster's connect timeout, which bounds the TCP connect and the TLS handshake each.
    ///
    /// # Errors
    /// When TCP or TLS fails.
    pub async fn connect(&self, endpoint: &Endpoint, purpose: Purpose) -> Result<Opened, ConnectError> {
        let Some(tls) = endpoint.tls() else {
            return self
                .open(endpoint, None, &[])
                .await
                .map(|(io, _)| Opened { io, carries: false });
        };
        let names = purpose.alpn(tls.alpn());
        let alpn: SmallVec<[&str; 4]> = names.iter().map(String::as_str).collect();
        let (io, agreed) = self.open(endpoint, Some(tls), &alpn).await?;
        let carries = purpose.carried().zip(agreed);
        Ok(Opened {
            io,
            carries: carries.is_some_and(|(carried, name)| tls.carries(&name, carried)),
        })
    }

    /// Connects as told, whatever the cluster says of TLS, and says which application protocol was agreed on.
    ///
    /// # Errors
    /// When TCP or TLS fails.
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        tls: Option<&ClientSide>,
        alpn: &[&str],
    ) -> Result<(Io, Option<String>), ConnectError> {
        let address = endpoint.address();
        let limit = endpoint.cluster().connect_timeout;
        let stream = self.dialer.dial(address, limit).await?;
        let Some(tls) = tls else {
            self.connections.connected(address, false);
            return Ok((Io::Opened(stream), None));
        };
        let pin = endpoint
            .principal()
            .map_or(Pin::Cluster, |principal| Pin::Principal(principal));
        let stream = Replay::new(stream).ahead();
        let connected = tls.connect(stream, pin, alpn, Some(address), limit).await;
        let result = connected.as_ref().map(|_| ()).map_err(HandshakeError::failure);
        self.handshakes.done(Direction::Outbound, result);
        match connected {
            Ok(originated) => {
                self.connections.connected(address, true);
                Ok((Io::Originated(Box::new(originated.stream)), originated.alpn))
            }
            Err(source) => Err(ConnectError::Tls { address, source }),
        }
    }
}
