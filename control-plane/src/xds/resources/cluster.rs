//! Where traffic goes: clusters and their endpoints.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use prost_types::Any;
use weir_xds::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{
                    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy,
                    LeastRequestLbConfig,
                },
            },
            core::v3::{HealthStatus, Http2ProtocolOptions, Metadata},
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint as XdsEndpoint, LbEndpoint, LocalityLbEndpoints,
                lb_endpoint::HostIdentifier,
            },
        },
        extensions::{
            transport_sockets::tls::v3::{
                CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
            },
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig},
            },
        },
    },
    pack,
};

use super::{
    super::names::{PASSTHROUGH, Way, service_port_name},
    Dialect,
    parts::{self, ALPN_HTTP, ALPN_TCP},
};
use crate::catalog::{Endpoint, MeshSettings, Pod, Service, ServicePort};

const CONNECT_TIMEOUT_S: i64 = 5;
/// Our part of `filter_metadata`.
const METADATA: &str = "weir";

/// CDS `<ns>/<svc>|<port>`, and its variants for other ways to the service.
pub(super) fn service(
    service: &Service,
    port: &ServicePort,
    mesh: &MeshSettings,
    dialect: Dialect,
    way: Way,
) -> Cluster {
    let key = &service.key;
    let alpn = if way.is_bytes() { ALPN_TCP } else { ALPN_HTTP };
    let cluster = Cluster {
        transport_socket: Some(parts::transport_socket(&UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_params: Some(parts::tls_parameters(&mesh.tls)),
                alpn_protocols: vec![alpn.to_owned()],
                tls_certificate_sds_secret_configs: vec![parts::workload_certificate(dialect)],
                validation_context_type: Some(parts::trusting(principals(service, mesh))),
                ..CommonTlsContext::default()
            }),
            sni: format!("{}.{}.svc.cluster.local", key.name, key.namespace),
        })),
        metadata: Some(metadata([
            ("namespace", key.namespace.to_string()),
            ("service", key.name.to_string()),
            ("port", port.number.to_string()),
        ])),
        ..speaking_as_the_client(way.cluster_name(key, port.number))
    };
    match way.is_to_pod() {
        true => dialled(cluster),
        false => balanced(cluster, service_port_name(key, port.number)),
    }
}

/// To the address that the client dialled.
fn dialled(cluster: Cluster) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..cluster
    }
}

/// To one of these endpoints.
fn balanced(cluster: Cluster, endpoints: String) -> Cluster {
    // Where it is the cluster's own name it goes without saying.
    let service_name = match endpoints == cluster.name {
        true => String::new(),
        false => endpoints,
    };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(parts::ads()),
            service_name,
        }),
        lb_policy: LbPolicy::LeastRequest.into(),
        lb_config: Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            choice_count: Some(2),
        })),
        ..cluster
    }
}

/// EDS `<ns>/<svc>|<port>`.
pub(super) fn endpoints(service: &Service, port: &ServicePort) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: service_port_name(&service.key, port.number),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: port.endpoints.iter().map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }],
        policy: None,
    }
}

/// CDS `local|<port>`: the application beside the proxy. It is loopback also where the application listens on the
/// pod's address only: there the redirect translates it, and a connection to that address would come back here.
pub(super) fn local(pod: &Pod, port: u16) -> Option<Cluster> {
    pod.inbound.iter().find(|inbound| inbound.port == port)?;
    let name = parts::local_name(port);
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Some(Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![at(SocketAddr::new(ip, port))],
                ..LocalityLbEndpoints::default()
            }],
            policy: None,
        }),
        ..speaking_as_the_client(name)
    })
}

/// CDS `passthrough-outbound`: wherever the client wanted to go.
pub(super) fn passthrough() -> Cluster {
    dialled(speaking_as_the_client(PASSTHROUGH.to_owned()))
}

/// A cluster that is spoken to in the HTTP version of the request at hand.
fn speaking_as_the_client(name: String) -> Cluster {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: None,
                // Envoy takes its absence for "HTTP/1 only".
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
            },
        )),
        ..HttpProtocolOptions::default()
    };
    let options: BTreeMap<String, Any> = BTreeMap::from([(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        pack(&options),
    )]);
    Cluster {
        name,
        connect_timeout: Some(parts::seconds(CONNECT_TIMEOUT_S)),
        typed_extension_protocol_options: options,
        ..Cluster::default()
    }
}

/// Exactly the identities behind the service.
fn principals(service: &Service, mesh: &MeshSettings) -> CertificateValidationContext {
    let nobody = format!("spiffe://{}/ns/{}/sa/", mesh.trust_domain, service.key.namespace);
    parts::only(service.principals.iter().map(|uri| &**uri), &nobody)
}

fn endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let workload = &endpoint.workload;
    LbEndpoint {
        metadata: Some(metadata([
            ("principal", endpoint.principal.to_string()),
            ("namespace", workload.namespace.clone()),
            ("pod", workload.pod.clone()),
            ("kind", workload.kind.clone()),
            ("workload", workload.name.clone()),
        ])),
        ..at(SocketAddr::new(endpoint.ip, endpoint.port))
    }
}

fn at(address: SocketAddr) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(XdsEndpoint {
            address: Some(parts::socket_address(address)),
            ..XdsEndpoint::default()
        })),
        health_status: HealthStatus::Healthy.into(),
        ..LbEndpoint::default()
    }
}

fn metadata<const N: usize>(fields: [(&str, String); N]) -> Metadata {
    Metadata {
        filter_metadata: BTreeMap::from([(METADATA.to_owned(), parts::text_struct(fields))]),
    }
}
