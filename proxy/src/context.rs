//! What every connection has at hand.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    assemble::Assembly,
    drain::Drain,
    http::AccessLog,
    telemetry::Telemetry,
    tls::Tls,
    upstream::Upstreams,
    xds::{self, Store},
};

/// What every connection has at hand. One for the whole proxy.
pub struct Context {
    /// Known resources.
    pub store: Store,
    /// Clusters in use.
    pub upstreams: Upstreams,
    /// TLS configurations in use.
    pub tls: Arc<Tls>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Where access log lines go.
    pub access_log: AccessLog,
    /// The shutdown.
    pub drain: Drain,
    /// How long a silent client is waited for when its listener does not say.
    pub detect_timeout: Duration,
    /// How long a client outside the mesh has for the head of a request.
    pub header_timeout: Duration,
    /// Room for inbound connections.
    pub inbound_room: Arc<Semaphore>,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// Whether there is a control plane to ask about addresses.
    pub control_plane: bool,
    /// How the stream to it fares.
    pub stream: xds::Status,
    /// Addresses that the proxy itself listens on.
    pub own: parking_lot::RwLock<Vec<SocketAddr>>,
}

impl Context {
    /// Begins to follow a listener and all that it names.
    pub fn assemble(&self, listener: &str) -> Arc<Assembly> {
        Assembly::new(listener, &self.store, &self.upstreams, &self.tls)
    }

    /// Whether forwarding to this address would come back to the proxy.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let local = ip.is_loopback() || ip.is_unspecified() || self.pod_ips.contains(&ip);
        self.own.read().iter().any(|own| {
            own.port() == address.port() && (own.ip() == ip || (own.ip().is_unspecified() && local))
        })
    }
}
