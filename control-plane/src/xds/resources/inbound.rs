//! What a pod serves: its inbound listener and the routes of its HTTP ports.

use weir_xds::{
    envoy::{
        config::{
            core::v3::TrafficDirection,
            listener::v3::{Filter, FilterChain, FilterChainMatch, Listener},
            route::v3::{
                HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
                header_matcher::HeaderMatchSpecifier, route::Action, route_action::ClusterSpecifier,
                route_match::PathSpecifier,
            },
        },
        extensions::{
            filters::{
                http::rbac::v3::Rbac as HttpRbac,
                network::http_connection_manager::v3::http_connection_manager::RouteSpecifier,
            },
            transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, common_tls_context::ValidationContextType,
            },
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    pack,
};

use super::{
    Dialect, is_http, outbound,
    parts::{self, ALPN_HTTP, ALPN_TCP, HTTP_RBAC, Look},
    rbac,
};
use crate::catalog::{Authorization, HttpRule, InboundPort, MeshSettings, Pod, Protocol, TcpRule};

const PORT: u16 = 15003;

/// LDS `inbound`.
pub(super) fn listener(pod: &Pod, mesh: &MeshSettings, dialect: Dialect) -> Listener {
    let mut chains: Vec<_> = pod
        .inbound
        .iter()
        .flat_map(|inbound| {
            Port {
                inbound,
                mesh,
                dialect,
            }
            .chains()
        })
        .collect();
    if chains.is_empty() {
        chains.extend(outbound::refusing_chain(dialect));
    }
    Listener {
        name: super::super::names::INBOUND.to_owned(),
        address: Some(parts::any_address(PORT)),
        filter_chains: chains,
        listener_filters: [Look::OriginalDst, Look::Tls].map(parts::listener_filter).into(),
        listener_filters_timeout: Some(parts::seconds(parts::CLIENT_FIRST_TIMEOUT_S)),
        traffic_direction: TrafficDirection::Inbound.into(),
        ..Listener::default()
    }
}

/// RDS `inbound|<port>`, for a port that may speak HTTP.
pub(super) fn routes(pod: &Pod, port: u16) -> Option<RouteConfiguration> {
    let inbound = pod.inbound.iter().find(|inbound| inbound.port == port)?;
    if !is_http(inbound.protocol) && inbound.protocol != Protocol::Undeclared {
        return None;
    }
    let routes = match &*inbound.authorization {
        Authorization::Permissive => vec![local_route(port, any_request())],
        Authorization::Rules { http, .. } => http.iter().flat_map(|rule| rule_routes(port, rule)).collect(),
    };
    Some(RouteConfiguration {
        name: routes_name(port),
        virtual_hosts: vec![VirtualHost {
            name: "inbound".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    })
}

fn routes_name(port: u16) -> String {
    format!("inbound|{port}")
}

/// A port of the pod, for its sidecar.
#[derive(Clone, Copy)]
struct Port<'a> {
    inbound: &'a InboundPort,
    mesh: &'a MeshSettings,
    dialect: Dialect,
}

impl Port<'_> {
    /// Where HTTP is spoken, two chains: the client's sidecar says by ALPN what it found, which may also be the
    /// application's own TLS. Opaque bytes need a rule for TCP.
    fn chains(self) -> Vec<FilterChain> {
        match self.inbound.protocol {
            Protocol::Http | Protocol::Grpc | Protocol::Undeclared => {
                let protocol = match self.inbound.protocol {
                    Protocol::Grpc => "grpc",
                    _ => "http",
                };
                let tcp = self.tcp_chain("tcp", &[ALPN_TCP], |rule| !rule.for_requests);
                [Some(self.http_chain(protocol)), tcp]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Protocol::Tcp | Protocol::TcpServerFirst => {
                let protocol = parts::protocol_name(self.inbound.protocol);
                self.tcp_chain(protocol, &[ALPN_HTTP, ALPN_TCP], |_| true)
                    .into_iter()
                    .collect()
            }
        }
    }

    /// Who may not connect learns it from `weir-proxy` by an answer to each request; from Envoy only when its filter
    /// for requests decides.
    fn http_chain(self, protocol: &str) -> FilterChain {
        let name = chain_name(self.inbound, protocol);
        let routes = RouteSpecifier::Rds(parts::rds(routes_name(self.inbound.port)));
        let (network, requests) = match (&*self.inbound.authorization, self.dialect) {
            (Authorization::Rules { tcp, .. }, Dialect::Envoy) => {
                (None, rbac::requests(self.inbound.port, tcp))
            }
            _ => (network_rbac(self.inbound, &name, |_| true), HttpRbac::default()),
        };
        let http = parts::http(&name, routes, Some(requests), self.dialect);
        let filters = network.into_iter().chain([http]).collect();
        self.chain(name, &[ALPN_HTTP], filters, parts::trusted())
    }

    fn tcp_chain(self, protocol: &str, alpn: &[&str], counts: fn(&TcpRule) -> bool) -> Option<FilterChain> {
        let name = chain_name(self.inbound, protocol);
        let tcp = parts::tcp(&name, &[(parts::local_name(self.inbound.port), 1)])?;
        let filters = network_rbac(self.inbound, &name, counts)
            .into_iter()
            .chain([tcp])
            .collect();
        Some(self.chain(name, alpn, filters, self.clients_of_bytes(counts)))
    }

    /// Who may connect, as the handshake asks. Envoy's authorization filter decides when the client says something;
    /// a server that speaks first would have spoken to anybody by then.
    fn clients_of_bytes(self, counts: fn(&TcpRule) -> bool) -> ValidationContextType {
        match (&*self.inbound.authorization, self.dialect) {
            (Authorization::Rules { tcp, .. }, Dialect::Envoy) => {
                let rules = tcp.iter().filter(|rule| counts(rule));
                let uris = rbac::clients(self.inbound.port, rules);
                let nobody = format!("spiffe://{}/", self.mesh.trust_domain);
                parts::trusting(parts::only(uris.iter().map(|uri| &***uri), &nobody))
            }
            _ => parts::trusted(),
        }
    }

    fn chain(
        self,
        name: String,
        alpn: &[&str],
        filters: Vec<Filter>,
        clients: ValidationContextType,
    ) -> FilterChain {
        let alpn: Vec<_> = alpn.iter().map(|&protocol| protocol.to_owned()).collect();
        FilterChain {
            name,
            filter_chain_match: Some(FilterChainMatch {
                destination_port: Some(u32::from(self.inbound.port)),
                transport_protocol: "tls".to_owned(),
                application_protocols: alpn.clone(),
                ..FilterChainMatch::default()
            }),
            filters,
            transport_socket: Some(parts::transport_socket(&DownstreamTlsContext {
                common_tls_context: Some(CommonTlsContext {
                    tls_params: Some(parts::tls_parameters(&self.mesh.tls)),
                    alpn_protocols: alpn,
                    tls_certificate_sds_secret_configs: vec![parts::workload_certificate(self.dialect)],
                    validation_context_type: Some(clients),
                    ..CommonTlsContext::default()
                }),
                require_client_certificate: Some(true),
                ..DownstreamTlsContext::default()
            })),
            ..FilterChain::default()
        }
    }
}

fn network_rbac(inbound: &InboundPort, stat_prefix: &str, counts: fn(&TcpRule) -> bool) -> Option<Filter> {
    match &*inbound.authorization {
        Authorization::Permissive => None,
        Authorization::Rules { tcp, .. } => {
            let rules = tcp.iter().filter(|rule| counts(rule));
            Some(rbac::network(inbound.port, rules, stat_prefix))
        }
    }
}

fn chain_name(inbound: &InboundPort, protocol: &str) -> String {
    let service = inbound
        .services
        .first()
        .map_or_else(|| "none".to_owned(), ToString::to_string);
    format!("inbound_{service}_{}_{protocol}", inbound.port)
}

/// One route a method; a single one when every method is allowed.
fn rule_routes(port: u16, rule: &HttpRule) -> Vec<Route> {
    let methods: Vec<Option<&String>> = match rule.methods.is_empty() {
        true => vec![None],
        false => rule.methods.iter().map(Some).collect(),
    };
    let route = |method: Option<&String>| {
        let method = method.map(|method| header(":method", MatchPattern::Exact(method.clone())));
        let headers = rule
            .headers
            .iter()
            .map(|(name, value)| header(name, MatchPattern::SafeRegex(regex(value))));
        let matches = RouteMatch {
            path_specifier: Some(PathSpecifier::SafeRegex(regex(&rule.path_regex))),
            headers: method.into_iter().chain(headers).collect(),
            ..RouteMatch::default()
        };
        let mut route = local_route(port, matches);
        let rules = pack(&rbac::per_route(&rule.rule));
        route.typed_per_filter_config.insert(HTTP_RBAC.to_owned(), rules);
        route
    };
    methods.into_iter().map(route).collect()
}

fn local_route(port: u16, matches: RouteMatch) -> Route {
    Route {
        r#match: Some(matches),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(parts::local_name(port))),
            timeout: Some(parts::seconds(0)),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

/// The match of every request.
pub(super) fn any_request() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

fn header(name: &str, pattern: MatchPattern) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    }
}

fn regex(expression: &str) -> RegexMatcher {
    RegexMatcher {
        regex: expression.to_owned(),
        ..RegexMatcher::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use prost::Message as _;
    use weir_xds::envoy::{
        config::listener::v3::filter::ConfigType, extensions::filters::network::rbac::v3::Rbac as NetworkRbac,
    };

    use super::*;
    use crate::catalog::Rule;

    fn rule(policy: &str, ports: &[u16], for_requests: bool) -> TcpRule {
        TcpRule {
            ports: ports.iter().copied().collect(),
            for_requests,
            rule: Rule {
                policies: BTreeSet::from([policy.to_owned()]),
                principals: BTreeSet::from([Arc::from(format!("spiffe://cluster.local/{policy}"))]),
            },
        }
    }

    /// The policies that let clients connect with this application protocol.
    fn admitting(protocol: Protocol, alpn: &str) -> Vec<String> {
        let inbound = InboundPort {
            port: 9000,
            protocol,
            services: Vec::new(),
            authorization: Arc::new(Authorization::Rules {
                http: Vec::new(),
                tcp: vec![rule("browse", &[], true), rule("bytes", &[9000], false)],
            }),
        };
        let port = Port {
            inbound: &inbound,
            mesh: &MeshSettings::default(),
            dialect: Dialect::Weir,
        };
        let chains = port.chains();
        let chain = chains.iter().find(|chain| {
            let matches = chain.filter_chain_match.as_ref().unwrap();
            matches.application_protocols.iter().any(|name| name == alpn)
        });
        let Some(ConfigType::TypedConfig(any)) = &chain.unwrap().filters[0].config_type else {
            panic!("no configuration");
        };
        let filter = NetworkRbac::decode(any.value.as_slice()).unwrap();
        filter.rules.unwrap().policies.into_keys().collect()
    }

    #[test]
    fn http_rules_cannot_be_passed_by_as_opaque_bytes() {
        assert_eq!(admitting(Protocol::Undeclared, ALPN_HTTP), ["browse", "bytes"]);
        assert_eq!(admitting(Protocol::Undeclared, ALPN_TCP), ["bytes"]);
        assert_eq!(admitting(Protocol::Tcp, ALPN_TCP), ["browse", "bytes"]);
    }
}
