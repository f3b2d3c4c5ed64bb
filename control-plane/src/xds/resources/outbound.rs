//! What clients use: the outbound listener, one listener per service address, the routes of a service.

use std::net::SocketAddr;

use weir_xds::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{Filter, FilterChain, FilterChainMatch, Listener},
    route::v3::{
        DirectResponseAction, Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster,
        route::Action, route_action::ClusterSpecifier, weighted_cluster::ClusterWeight,
    },
};

use super::{
    super::names::{OUTBOUND, PASSTHROUGH, service_port_name},
    Dialect, inbound, is_http,
    parts::{self, Look},
    rbac,
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
        ..Listener::default()
    }
}

/// LDS `<ip>:<port>` of a service's port.
pub(super) fn address(
    address: SocketAddr,
    service: &Service,
    port: &ServicePort,
    dialect: Dialect,
) -> Listener {
    let chains = match service.reachable {
        true => port_chains(service, port),
        false => Vec::new(),
    };
    if chains.is_empty() {
        return refusing(address, dialect);
    }
    let look = match port.protocol {
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

/// The chain of a listener that refuses, where one is needed.
pub(super) fn refusing_chain(dialect: Dialect) -> Option<FilterChain> {
    let proxy = parts::tcp("refused", &[(PASSTHROUGH.to_owned(), 1)])?;
    (dialect == Dialect::Envoy).then(|| FilterChain {
        name: "refused".to_owned(),
        filters: vec![rbac::nobody("refused"), proxy],
        ..FilterChain::default()
    })
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

fn port_chains(service: &Service, port: &ServicePort) -> Vec<FilterChain> {
    let routes = service_port_name(&service.key, port.number);
    let name = |protocol: &str| format!("outbound_{}_{}_{protocol}", service.key, port.number);
    let http = |protocol: &str, matches| {
        let name = name(protocol);
        chain(name.clone(), matches, parts::http(&name, routes.clone(), false))
    };
    let tcp = |protocol: &str, matches| {
        let name = name(protocol);
        parts::tcp(&name, &backends(service, port)).map(|filter| chain(name, matches, filter))
    };
    let declared = parts::protocol_name(port.protocol);
    match port.protocol {
        Protocol::Http | Protocol::Grpc => {
            let tls = FilterChainMatch {
                transport_protocol: "tls".to_owned(),
                ..FilterChainMatch::default()
            };
            [Some(http(declared, None)), tcp("tls", Some(tls))]
                .into_iter()
                .flatten()
                .collect()
        }
        Protocol::Tcp | Protocol::TcpServerFirst => tcp(declared, None).into_iter().collect(),
        Protocol::Undeclared => {
            let found = FilterChainMatch {
                application_protocols: ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).into(),
                ..FilterChainMatch::default()
            };
            [Some(http("http", Some(found))), tcp("tcp", None)]
                .into_iter()
                .flatten()
                .collect()
        }
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
fn backends(service: &Service, port: &ServicePort) -> Vec<(String, u32)> {
    let name = |key| service_port_name(key, port.number);
    match &service.split {
        None => vec![(name(&service.key), 1)],
        Some(split) => split
            .iter()
            .map(|backend| (name(&backend.service), backend.weight))
            .collect(),
    }
}

fn route(service: &Service, port: &ServicePort) -> Route {
    let backends = backends(service, port);
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
