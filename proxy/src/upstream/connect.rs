//! Opening a connection to an endpoint: TCP, then TLS pinned to the endpoint's identity.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Endpoint;
use crate::{
    model::Direction,
    net::{DialError, Dialer, Io},
    reason::Reason,
    telemetry::{Connections, Handshakes, Telemetry},
    tls::{ClientSide, HandshakeError, Pin},
};

/// What the connection is for; told to the peer by ALPN, so that it need not look at the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// HTTP of any version.
    Http,
    /// Bytes of any kind: each protocol `x` of the cluster is offered as `x-tcp` first.
    Opaque,
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
    pub async fn connect(&self, endpoint: &Endpoint, purpose: Purpose) -> Result<Io, ConnectError> {
        let Some(tls) = endpoint.tls() else {
            return self.open(endpoint, None, &[]).await;
        };
        let opaque: Vec<String>;
        let mut alpn: SmallVec<[&str; 4]> = tls.alpn().iter().map(String::as_str).collect();
        if purpose == Purpose::Opaque {
            opaque = alpn.iter().map(|name| format!("{name}-tcp")).collect();
            alpn.insert_many(0, opaque.iter().map(String::as_str));
        }
        self.open(endpoint, Some(tls), &alpn).await
    }

    /// Connects as told, whatever the cluster says of TLS.
    ///
    /// # Errors
    /// When TCP or TLS fails.
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        tls: Option<&ClientSide>,
        alpn: &[&str],
    ) -> Result<Io, ConnectError> {
        let address = endpoint.address();
        let limit = endpoint.cluster().connect_timeout;
        let stream = self.dialer.dial(address, limit).await?;
        let Some(tls) = tls else {
            self.connections.connected(address, false);
            return Ok(Io::Opened(stream));
        };
        let pin = endpoint
            .principal()
            .map_or(Pin::Cluster, |principal| Pin::Principal(principal));
        let connected = tls.connect(stream, pin, alpn, limit).await;
        let result = connected.as_ref().map(|_| ()).map_err(HandshakeError::failure);
        self.handshakes.done(Direction::Outbound, result);
        match connected {
            Ok(originated) => {
                self.connections.connected(address, true);
                Ok(Io::Originated(Box::new(originated.stream)))
            }
            Err(source) => Err(ConnectError::Tls { address, source }),
        }
    }
}
