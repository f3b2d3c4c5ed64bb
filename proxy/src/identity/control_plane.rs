//! Connections to the control plane.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use tokio::net::lookup_host;
use tracing::debug;

use crate::{
    model::{Cluster, Discovery, UpstreamTls},
    net::{DialError, Dialer},
    tls::{ClientSide, HandshakeError, Pin},
    xds::{Connect, Io, Store},
};

/// gRPC runs on HTTP/2 only.
const ALPN: &[&str] = &["h2"];
/// However many addresses share the connect timeout, each gets this much.
const LEAST_PER_ADDRESS: Duration = Duration::from_millis(500);

/// Whether the proxy shows its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The certificate that the cluster's TLS settings name.
    Certificate,
    /// None: there is no certificate yet, a token in the request says who asks.
    Token,
}

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The cluster has no fixed addresses or names.
    #[error(
        "cluster {0:?} leads nowhere: the control plane's cluster must be STATIC, STRICT_DNS or LOGICAL_DNS"
    )]
    NoAddresses(String),
    /// A name is not known.
    #[error("cannot resolve {name:?}: {source}; does the Service exist, and does DNS work in this pod?")]
    Resolve {
        /// The name.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// TCP failed for every address.
    #[error("the control plane cannot be reached: {0}")]
    Dial(#[from] DialError),
    /// TLS failed.
    #[error("the control plane at {address} is not trusted or does not trust this proxy: {source}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        source: HandshakeError,
    },
}

impl From<ControlPlaneError> for io::Error {
    fn from(error: ControlPlaneError) -> Self {
        Self::other(error)
    }
}

/// Opens connections to the control plane that this cluster leads to. Names are resolved for each, the newest
/// certificate and roots are used for each.
pub fn connector(cluster: &Arc<Cluster>, credentials: Credentials, store: &Store, dialer: Dialer) -> Connect {
    let tls = cluster.tls.as_deref().map(|tls| {
        let certificate = match credentials {
            Credentials::Certificate => tls.certificate.clone(),
            Credentials::Token => None,
        };
        let tls = UpstreamTls {
            certificate,
            ..tls.clone()
        };
        Arc::new(ClientSide::new(&tls, store))
    });
    let cluster = cluster.clone();
    Arc::new(move || {
        let (cluster, tls) = (cluster.clone(), tls.clone());
        Box::pin(async move { Ok(open(&cluster, tls.as_deref(), dialer).await?) })
    })
}

/// What the control plane is called in requests: its name and port.
pub fn authority(cluster: &Cluster) -> String {
    match &cluster.discovery {
        Discovery::Dns(names) if !names.is_empty() => format!("{}:{}", names[0].0, names[0].1),
        Discovery::Static(endpoints) if !endpoints.endpoints.is_empty() => {
            endpoints.endpoints[0].address.to_string()
        }
        _ => "control-plane".to_owned(),
    }
}

async fn open(
    cluster: &Cluster,
    tls: Option<&ClientSide>,
    dialer: Dialer,
) -> Result<Box<dyn Io>, ControlPlaneError> {
    let mut addresses = resolve(cluster).await?;
    // Replicas of the control plane share the proxies by chance.
    addresses.shuffle(&mut rand::rng());
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let limit = (cluster.connect_timeout / count).max(LEAST_PER_ADDRESS.min(cluster.connect_timeout));
    let mut last = ControlPlaneError::NoAddresses(cluster.name.clone());
    for address in addresses {
        let attempt = match tls {
            None => dialer
                .dial(address, limit)
                .await
                .map(|stream| Box::new(stream) as _)
                .map_err(Into::into),
            Some(tls) => secured(tls, address, dialer, limit).await,
        };
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                debug!(%address, %error, "no connection to the control plane");
                last = error;
            }
        }
    }
    Err(last)
}

async fn secured(
    tls: &ClientSide,
    address: SocketAddr,
    dialer: Dialer,
    limit: Duration,
) -> Result<Box<dyn Io>, ControlPlaneError> {
    let stream = dialer.dial(address, limit).await?;
    let originated = tls.connect(stream, Pin::Cluster, ALPN, None, limit).await;
    match originated {
        Ok(originated) => Ok(Box::new(originated.stream)),
        Err(source) => Err(ControlPlaneError::Tls { address, source }),
    }
}

async fn resolve(cluster: &Cluster) -> Result<Vec<SocketAddr>, ControlPlaneError> {
    let names = match &cluster.discovery {
        Discovery::Static(endpoints) => {
            return Ok(endpoints
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address)
                .collect());
        }
        Discovery::Dns(names) => names,
        Discovery::Eds(_) | Discovery::OriginalDst => {
            return Err(ControlPlaneError::NoAddresses(cluster.name.clone()));
        }
    };
    let mut addresses = Vec::new();
    let mut failed = None;
    for (name, port) in names {
        match lookup_host((name.as_str(), *port)).await {
            Ok(found) => addresses.extend(found),
            Err(source) => {
                let name = name.clone();
                failed = Some(ControlPlaneError::Resolve { name, source });
            }
        }
    }
    match failed {
        Some(error) if addresses.is_empty() => Err(error),
        _ => Ok(addresses),
    }
}
