//! Listeners, after `envoy.config.listener.v3`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::bucket;

use super::{Rbac, RouteTable, StringMatcher, TrustBundle, WeightedCluster};

/// Where connections are taken, and what is done with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Resource name.
    pub name: String,
    /// Address to bind; `None` for a listener that only exists to be found by its name (`bind_to_port: false`).
    pub address: Option<SocketAddr>,
    /// Whether the destination is the one before the redirect.
    pub original_dst: bool,
    /// Which way its traffic goes.
    pub direction: Direction,
    /// What the first bytes are looked at for.
    pub inspect: Inspect,
    /// Chains; the most specific match wins (see [`ChainMatch`]).
    pub chains: Vec<Arc<FilterChain>>,
    /// Used when no chain matches; `None`: the connection is closed.
    pub default_chain: Option<Arc<FilterChain>>,
}

/// Which way traffic goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Neither: a static listener such as a probe.
    #[default]
    Unspecified,
    /// To this pod.
    Inbound,
    /// From this pod.
    Outbound,
}

/// What the first bytes of a connection are looked at for. Nothing to look for: nothing is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspect {
    /// For a TLS ClientHello.
    pub tls: bool,
    /// For an HTTP/1 request line or the HTTP/2 preface.
    pub http: bool,
    /// How long a silent client is waited for; `None`: the proxy's default.
    pub timeout: Option<Duration>,
    /// After the timeout: go on as opaque TCP (`true`) or close (`false`).
    pub continue_on_timeout: bool,
}

/// One way to handle a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    /// Name, for logs.
    pub name: String,
    /// When it applies.
    pub matches: ChainMatch,
    /// TLS termination; `None`: bytes are taken as they are.
    pub tls: Option<Arc<ServerTls>>,
    /// Network filters before the last one, in order.
    pub network: Vec<Network>,
    /// The last filter.
    pub terminal: Terminal,
}

/// When a chain applies. An unset condition always holds; conditions are compared in the order of the fields,
/// the most specific first, as Envoy does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination address; the longest prefix wins.
    pub destination: Vec<IpNet>,
    /// SNI: exact, or `*.suffix`.
    pub server_names: Vec<String>,
    /// What the first bytes are.
    pub transport: Option<Transport>,
    /// ALPN protocols; for plaintext what inspection found: `http/1.1`, `h2c`.
    pub application_protocols: Vec<String>,
    /// Source address; the longest prefix wins.
    pub source: Vec<IpNet>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// What a connection's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Not TLS.
    RawBuffer,
    /// A TLS ClientHello.
    Tls,
}

/// ALPN protocols, preferred first.
pub type AlpnSet = Vec<String>;

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    /// Name of the secret that holds our certificate.
    pub certificate: String,
    /// Name of the secret that holds the roots for client certificates.
    pub trust_bundle: Option<String>,
    /// Roots given in place, used when `trust_bundle` is `None`.
    pub inline_trust: Option<TrustBundle>,
    /// Names, any of which a client's certificate must carry; empty: only the roots count.
    pub subject_alt_names: Vec<StringMatcher>,
    /// Whether a client without a certificate is refused.
    pub require_client_certificate: bool,
    /// ALPN protocols accepted, preferred first.
    pub alpn: AlpnSet,
    /// Lowest version.
    pub min_version: TlsVersion,
    /// Highest version.
    pub max_version: TlsVersion,
    /// Algorithms.
    pub algorithms: Algorithms,
}

/// TLS algorithms by the names of [`weir_xds::algorithms`], preferred first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Algorithms {
    /// Cipher suites of TLS 1.2; none: any.
    pub cipher_suites: Vec<String>,
    /// Key exchanges; none: any.
    pub curves: Vec<String>,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    #[default]
    V1_3,
}

/// A network filter that decides before the last one.
#[derive(Clone, Debug, PartialEq)]
pub enum Network {
    /// Authorization of the connection. `None`: everything is allowed.
    Rbac(Option<Arc<Rbac>>),
    /// A token bucket of connections.
    LocalRateLimit(bucket::Settings),
}

/// The filter that ends a chain.
#[derive(Clone, Debug, PartialEq)]
pub enum Terminal {
    /// HTTP is served.
    Http(Arc<Http>),
    /// Bytes are copied.
    Tcp(Tcp),
}

/// Bytes are copied to one of these clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    /// Clusters by weight; never empty.
    pub clusters: Vec<WeightedCluster>,
    /// Closed after this long without a byte either way; `None`: never.
    pub idle_timeout: Option<Duration>,
}

/// HTTP is served (`HttpConnectionManager`).
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Versions accepted.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// Authorization of each request, before the route's own. `None`: no such filter.
    pub rbac: Option<Option<Arc<Rbac>>>,
    /// Upgrades let through, lower-case (`websocket`); other `Upgrade` requests are answered 403.
    pub upgrades: Vec<String>,
    /// A stream idle for this long is ended; `None`: never.
    pub stream_idle_timeout: Option<Duration>,
    /// Whether the access is logged.
    pub access_log: bool,
}

/// HTTP versions accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Told by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where routes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    /// Given in place.
    Inline(Arc<RouteTable>),
    /// The RDS resource of this name.
    Rds(String),
}
