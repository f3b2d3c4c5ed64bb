//! What clients use: the outbound listener, one listener per service address, the routes of a service.

use std::net::SocketAddr;

use weir_xds::envoy::{
    config::{
        core::v3::TrafficDirection,
        listener::v3::{Filter, FilterChain, FilterChainMatch, Listener},
        route::v3::{
            DirectResponseAction, Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster,
            route::Action, route_action::ClusterSpecifier, weighted_cluster::ClusterWeight,
        },
    },
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier,
};

use super::{
    super::names::{OUTBOUND, PASSTHROUGH, Way, service_port_name},
    Dialect, inbound, is_http,
    parts::{self, Look},
};
use crate::catalog::{MeshSettings, Protocol, Service, ServicePort};

const PORT: u16 = 15001;
/// How long a silent client of a port of undeclared protocol is waited for.
const DETECT_TIMEOUT_MS: i32 = 200;
const CLUSTER_DOMAIN: &str = "cluster.local";

/// LDS `outbound`: where redirected connections arrive, and what becomes of those to no service of the mesh.
pub(super) fn entry(mesh: &MeshSettings, dialect: Dialect) -> Listener {
    let passthrough = parts::tcp("outbound", &[(PASSTHROUGH.to_owned(), 1)]).filter(|_| mesh.egress);
    let refused = match passthrough {
        Some(_) => None,
        None => refusing_chain(dialect),
    };
    Listener {
        name: OUTBOUND.to_owned(),
        address: Some(parts::any_address(PORT)),
        listener_filters: vec![parts::listener_filter(Look::OriginalDst)],
        traffic_direction: TrafficDirection::Outbound.into(),
        default_filter_chain: passthrough
            .map(|filter| chain("outbound_passthrough".to_owned(), None, filter)),
        filter_chains: refused.into_iter().collect(),
        // To `weir-proxy` it goes without saying that the listener of the address takes over.
        use_original_dst: (dialect == Dialect::Envoy).then_some(true),
        ..Listener::default()
    }
}

/// A port of a service, for one kind of client.
#[derive(Clone, Copy)]
pub(super) struct Port<'a> {
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePort,
    pub(super) dialect: Dialect,
}

/// LDS `<ip>:<port>` of a service's port.
pub(super) fn address(address: SocketAddr, of: Port<'_>) -> Listener {
    let to_pod = !of.service.cluster_ips.contains(&address.ip());
    let chains = match of.service.reachable {
        true => of.chains(to_pod),
        false => Vec::new(),
    };
    if chains.is_empty() {
        return refusing(address, of.dialect);
    }
    let look = match of.port.protocol {
        Protocol::Http | Protocol::Grpc => Some(Look::Tls),
        Protocol::Undeclared => Some(Look::Http),
        Protocol::Tcp | Protocol::TcpServerFirst => None,
    };
    Listener {
        filter_chains: chains,
        listener_filters: look.map(parts::listener_filter).into_iter().collect(),
        listener_filters_timeout: look.map(|look| match look {
            Look::Http => prost_types::Duration {
                seconds: 0,
                nanos: DETECT_TIMEOUT_MS * 1_000_000,
            },
            // The client speaks first anyway: nothing is gained by guessing before it does.
            _ => parts::seconds(parts::CLIENT_FIRST_TIMEOUT_S),
        }),
        continue_on_listener_filters_timeout: look.is_some(),
        ..at(address)
    }
}

/// LDS `<ip>:<port>` that takes no connection.
pub(super) fn refusing(address: SocketAddr, dialect: Dialect) -> Listener {
    Listener {
        filter_chains: refusing_chain(dialect).into_iter().collect(),
        ..at(address)
    }
}

/// The chain of a listener that refuses, where one is needed: to a cluster that is not there. An authorization filter
/// would not do, for Envoy asks it when the client says something, and lets a server speak before.
pub(super) fn refusing_chain(dialect: Dialect) -> Option<FilterChain> {
    let proxy = parts::tcp("refused", &[("refused".to_owned(), 1)])?;
    (dialect == Dialect::Envoy).then(|| chain("refused".to_owned(), None, proxy))
}

/// RDS `<ns>/<svc>|<port>`, for a port that may speak HTTP. A host that is none of the service's names is routed
/// all the same: the address decided already.
pub(super) fn routes(service: &Service, port: &ServicePort) -> Option<RouteConfiguration> {
    if !is_http(port.protocol) && port.protocol != Protocol::Undeclared {
        return None;
    }
    let name = service_port_name(&service.key, port.number);
    let host = |name: &str, domains| VirtualHost {
        name: name.to_owned(),
        domains,
        routes: vec![route(service, port)],
        ..VirtualHost::default()
    };
    Some(RouteConfiguration {
        virtual_hosts: vec![
            host(&service.key.to_string(), domains(service, port.number)),
            host("any", vec!["*".to_owned()]),
        ],
        name,
        ..RouteConfiguration::default()
    })
}

fn at(address: SocketAddr) -> Listener {
    Listener {
        name: address.to_string(),
        address: Some(parts::socket_address(address)),
        traffic_direction: TrafficDirection::Outbound.into(),
        bind_to_port: Some(false),
        ..Listener::default()
    }
}

impl Port<'_> {
    fn chains(self, to_pod: bool) -> Vec<FilterChain> {
        let tcp = |protocol: &str, matches| {
            let name = self.chain_name(protocol);
            parts::tcp(&name, &self.carriers(to_pod)).map(|filter| chain(name, matches, filter))
        };
        let http = |protocol: &str, matches| Some(self.http_chain(protocol, matches, to_pod));
        let declared = parts::protocol_name(self.port.protocol);
        let chains = match self.port.protocol {
            Protocol::Http | Protocol::Grpc => {
                let tls = FilterChainMatch {
                    transport_protocol: "tls".to_owned(),
                    ..FilterChainMatch::default()
                };
                [http(declared, None), tcp("tls", Some(tls))]
            }
            Protocol::Tcp | Protocol::TcpServerFirst => [tcp(declared, None), None],
            Protocol::Undeclared => {
                let found = FilterChainMatch {
                    application_protocols: ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).into(),
                    ..FilterChainMatch::default()
                };
                [http("http", Some(found)), tcp("tcp", None)]
            }
        };
        chains.into_iter().flatten().collect()
    }

    fn chain_name(self, protocol: &str) -> String {
        format!("outbound_{}_{}_{protocol}", self.service.key, self.port.number)
    }

    fn http_chain(self, protocol: &str, matches: Option<FilterChainMatch>, to_pod: bool) -> FilterChain {
        let (key, number) = (&self.service.key, self.port.number);
        let name = self.chain_name(protocol);
        let routes = match to_pod && self.dialect == Dialect::Envoy {
            false => RouteSpecifier::Rds(parts::rds(service_port_name(key, number))),
            // A split is for who asks for the service, not for one of its pods.
            true => {
                let cluster = Way::RequestsToPod.cluster_name(key, number);
                RouteSpecifier::RouteConfig(to_anybody(cluster))
            }
        };
        let filter = parts::http(&name, routes, None, self.dialect);
        chain(name, matches, filter)
    }

    /// The clusters that carry bytes, by weight.
    fn carriers(self, to_pod: bool) -> Vec<(String, u32)> {
        let (key, number) = (&self.service.key, self.port.number);
        match (self.dialect, to_pod) {
            (Dialect::Weir, _) => backends(self.service, self.port, Way::Requests),
            (Dialect::Envoy, false) => backends(self.service, self.port, Way::Bytes),
            (Dialect::Envoy, true) => vec![(Way::BytesToPod.cluster_name(key, number), 1)],
        }
    }
}

/// Every host and path, to one cluster.
fn to_anybody(cluster: String) -> RouteConfiguration {
    RouteConfiguration {
        name: cluster.clone(),
        virtual_hosts: vec![VirtualHost {
            name: "any".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                r#match: Some(inbound::any_request()),
                action: Some(forward(ClusterSpecifier::Cluster(cluster))),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

fn chain(name: String, matches: Option<FilterChainMatch>, filter: Filter) -> FilterChain {
    FilterChain {
        name,
        filter_chain_match: matches,
        filters: vec![filter],
        ..FilterChain::default()
    }
}

/// The clusters that share a port's traffic, by weight.
fn backends(service: &Service, port: &ServicePort, way: Way) -> Vec<(String, u32)> {
    let name = |key| way.cluster_name(key, port.number);
    match &service.split {
        None => vec![(name(&service.key), 1)],
        Some(split) => split
            .iter()
            .map(|backend| (name(&backend.service), backend.weight))
            .collect(),
    }
}

fn route(service: &Service, port: &ServicePort) -> Route {
    let backends = backends(service, port, Way::Requests);
    let total: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let action = match backends.as_slice() {
        // Nothing may get the traffic: Envoy refuses a sum of 0.
        _ if total == 0 => Action::DirectResponse(DirectResponseAction {
            status: 503,
            body: None,
        }),
        [(only, _)] => forward(ClusterSpecifier::Cluster(only.clone())),
        // Backends of weight 0 stay listed, so that proxies hold their endpoints before traffic is shifted to them.
        several => forward(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| ClusterWeight {
                    name: name.clone(),
                    weight: Some(*weight),
                    ..ClusterWeight::default()
                })
                .collect(),
            ..WeightedCluster::default()
        })),
    };
    Route {
        r#match: Some(inbound::any_request()),
        action: Some(action),
        ..Route::default()
    }
}

fn forward(cluster: ClusterSpecifier) -> Action {
    Action::Route(RouteAction {
        cluster_specifier: Some(cluster),
        timeout: Some(parts::seconds(0)),
        ..RouteAction::default()
    })
}

fn domains(service: &Service, port: u16) -> Vec<String> {
    let key = &service.key;
    let (name, namespace) = (&key.name, &key.namespace);
    let mut domains = Vec::new();
    for host in [
        name.to_string(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster"),
        format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
    ] {
        domains.push(format!("{host}:{port}"));
        domains.push(host);
    }
    for ip in &service.cluster_ips {
        domains.push(SocketAddr::new(*ip, port).to_string());
        domains.push(match ip.is_ipv6() {
            true => format!("[{ip}]"),
            false => ip.to_string(),
        });
    }
    domains
}
