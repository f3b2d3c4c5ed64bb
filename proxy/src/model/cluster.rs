//! Clusters and endpoints, after `envoy.config.cluster.v3` and `envoy.config.endpoint.v3`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{Algorithms, StringMatcher, TlsVersion, TrustBundle};

/// A named set of endpoints and how to reach them.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Resource name.
    pub name: String,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How long a TCP connect (and TLS handshake) may take.
    pub connect_timeout: Duration,
    /// TLS to the endpoints; `None` is plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The HTTP version spoken to endpoints.
    pub protocol: AppProtocol,
    /// Circuit-breaking limits.
    pub limits: Limits,
    /// Ejection of failing endpoints; `None` when off.
    pub outlier_detection: Option<OutlierDetection>,
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// Listed in the cluster.
    Static(Arc<Endpoints>),
    /// Names to resolve, with the port of each.
    Dns(Vec<(String, u16)>),
    /// The EDS resource of this name.
    Eds(String),
    /// The connection's original destination.
    OriginalDst,
}

/// The HTTP version spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    /// The same as the client speaks.
    #[default]
    Downstream,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Circuit-breaking limits; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Requests waiting for a connection.
    pub pending_requests: Option<u32>,
    /// Requests at a time.
    pub requests: Option<u32>,
    /// Retries at a time.
    pub retries: Option<u32>,
    /// Requests on one connection before it is closed.
    pub requests_per_connection: Option<u32>,
}

/// When an endpoint is left out for failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// This many 5xx (or failed connections) in a row eject.
    pub consecutive_5xx: u32,
    /// First ejection; the n-th lasts n times this.
    pub base_ejection_time: Duration,
    /// Longest ejection.
    pub max_ejection_time: Duration,
    /// At most this share of the endpoints is ejected, in percent.
    pub max_ejection_percent: u32,
}

/// TLS towards a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// SNI; empty: none.
    pub sni: String,
    /// ALPN protocols offered, preferred first.
    pub alpn: Vec<String>,
    /// Name of the secret that holds our certificate; `None`: we show none.
    pub certificate: Option<String>,
    /// Name of the secret that holds the roots.
    pub trust_bundle: Option<String>,
    /// Roots given in place, used when `trust_bundle` is `None`.
    pub inline_trust: Option<TrustBundle>,
    /// Names, any of which the server's certificate must carry (URI or DNS SAN); empty: only the roots count.
    pub subject_alt_names: Vec<StringMatcher>,
    /// Lowest version.
    pub min_version: TlsVersion,
    /// Highest version.
    pub max_version: TlsVersion,
    /// Algorithms.
    pub algorithms: Algorithms,
}

/// The endpoints of a cluster at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoints {
    /// Healthy endpoints, in the order given.
    pub endpoints: Vec<Endpoint>,
}

/// One address.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Relative weight, at least 1.
    pub weight: u32,
    /// The exact SPIFFE URI that its certificate must carry; `None`: the cluster's names decide.
    pub principal: Option<Arc<str>>,
    /// The pod behind it, for metric labels.
    pub workload: Arc<Workload>,
}

/// The pod on one end of a connection, as metric labels name it. Unknown parts are `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Kind of the owner: `Deployment`, `StatefulSet`...
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Name of the pod.
    pub pod: String,
}

impl Default for Workload {
    fn default() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            namespace: unknown(),
            kind: unknown(),
            name: unknown(),
            pod: unknown(),
        }
    }
}
