//! Configuration as the data path reads it: plain immutable data, decoded once from xDS or from the bootstrap.
//!
//! Nothing here does I/O, holds a clock, or knows protobuf. Times are [`std::time::Duration`].

mod cluster;
mod listener;
mod matcher;
mod rbac;
mod route;
mod secret;

pub use cluster::{
    AppProtocol, Cluster, Discovery, Endpoint, Endpoints, Limits, OutlierDetection, UpstreamTls, Workload,
};
pub use listener::{
    Algorithms, AlpnSet, ChainMatch, Codec, Direction, FilterChain, Http, Inspect, Listener, Network,
    RouteSource, ServerTls, Tcp, Terminal, TlsVersion, Transport,
};
pub use matcher::{HeaderMatcher, HeaderValueMatch, Regex, StringMatcher};
pub use rbac::{Action, Permission, Policy, Principal, Rbac};
pub use route::{
    Destination, HeaderMutation, HeaderMutations, PathMatch, PathRewrite, QueryMatcher, Retry, RetryOn,
    Route, RouteAction, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
};
pub use secret::{Certificate, Secret, TrustBundle};
