//! The pieces that several resources share.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
};

use prost_types::{Any, Duration, Struct, Value, value::Kind};
use weir_xds::{
    TypeUrl,
    envoy::{
        config::{
            core::v3::{
                Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, PathConfigSource,
                SocketAddress, TransportSocket, address, config_source::ConfigSourceSpecifier,
                data_source::Specifier, socket_address::PortSpecifier, transport_socket,
            },
            listener::v3::{Filter, ListenerFilter, filter, listener_filter},
        },
        extensions::{
            filters::{
                http::{rbac::v3::Rbac as HttpRbac, router::v3::Router},
                listener::{
                    http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
                    tls_inspector::v3::TlsInspector,
                },
                network::{
                    http_connection_manager::v3::{
                        HttpConnectionManager, HttpFilter, Rds,
                        http_connection_manager::{
                            PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig,
                        },
                        http_filter,
                    },
                    tcp_proxy::v3::{
                        TcpProxy,
                        tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
                    },
                },
            },
            transport_sockets::tls::v3::{
                CertificateValidationContext, SdsSecretConfig, Secret, SubjectAltNameMatcher, TlsParameters,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                secret,
                subject_alt_name_matcher::SanType,
                tls_parameters::TlsProtocol,
            },
        },
    },
    pack,
};

use super::{
    super::names::{TRUST_BUNDLE, WORKLOAD_CERT},
    Dialect,
    rbac::exact,
};
use crate::{
    catalog::{Protocol, TlsSettings},
    certificates::TrustBundle,
    injector::IDENTITY_DIRECTORY,
};

/// ALPN of HTTP between sidecars.
pub(super) const ALPN_HTTP: &str = "osm";
/// ALPN of bytes between sidecars.
pub(super) const ALPN_TCP: &str = "osm-tcp";
/// Name of the HTTP authorization filter.
pub(super) const HTTP_RBAC: &str = "envoy.filters.http.rbac";

/// How long the first bytes of a client that must speak first are waited for.
pub(super) const CLIENT_FIRST_TIMEOUT_S: i64 = 15;

/// `local|<port>`.
pub(super) fn local_name(port: u16) -> String {
    format!("local|{port}")
}

/// The protocol's part of a chain's name.
pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
        Protocol::TcpServerFirst => "tcp-server-first",
        Protocol::Undeclared => "undeclared",
    }
}

/// Every address of the pod, of both families.
pub(super) fn any_address(port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: Ipv6Addr::UNSPECIFIED.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
            ipv4_compat: true,
            ..SocketAddress::default()
        })),
    }
}

pub(super) fn socket_address(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..SocketAddress::default()
        })),
    }
}

pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    }
}

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

pub(super) fn text_struct<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Struct {
    let value = |text| Value {
        kind: Some(Kind::StringValue(text)),
    };
    let fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(name, text)| (name.to_owned(), value(text)))
        .collect();
    Struct {
        fields: fields.into_iter().collect(),
    }
}

pub(super) fn transport_socket<M: TypeUrl>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack(context))),
    }
}

pub(super) fn tls_parameters(tls: &TlsSettings) -> TlsParameters {
    let minimum = if tls.allow_1_2 {
        TlsProtocol::TlSv12
    } else {
        TlsProtocol::TlSv13
    };
    let maximum = if tls.allow_1_3 {
        TlsProtocol::TlSv13
    } else {
        TlsProtocol::TlSv12
    };
    TlsParameters {
        tls_minimum_protocol_version: minimum.into(),
        tls_maximum_protocol_version: maximum.into(),
        cipher_suites: tls.cipher_suites.clone(),
        ecdh_curves: tls.curves.clone(),
        ..TlsParameters::default()
    }
}

/// The proxy's own certificate: a secret it has without asking, Envoy in a file.
pub(super) fn workload_certificate(dialect: Dialect) -> SdsSecretConfig {
    let file = || ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
            path: format!("{IDENTITY_DIRECTORY}/{WORKLOAD_CERT}.json"),
            ..PathConfigSource::default()
        })),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    };
    SdsSecretConfig {
        name: WORKLOAD_CERT.to_owned(),
        sds_config: (dialect == Dialect::Envoy).then(file),
    }
}

/// Every certificate under the roots of the mesh.
pub(super) fn trusted() -> ValidationContextType {
    ValidationContextType::ValidationContextSdsSecretConfig(trust_bundle_reference())
}

/// Certificates under the roots of the mesh that fit this too.
pub(super) fn trusting(names: CertificateValidationContext) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(names),
        validation_context_sds_secret_config: Some(trust_bundle_reference()),
        ..CombinedCertificateValidationContext::default()
    })
}

/// Certificates for these URIs alone. No matcher at all would accept every certificate of the mesh, so where there is
/// no URI it is one that nobody can have.
pub(super) fn only<'a>(uris: impl Iterator<Item = &'a str>, nobody: &str) -> CertificateValidationContext {
    let matcher = |uri: &str| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(exact(uri)),
    };
    let mut matchers: Vec<_> = uris.map(matcher).collect();
    if matchers.is_empty() {
        matchers.push(matcher(nobody));
    }
    CertificateValidationContext {
        match_typed_subject_alt_names: matchers,
        ..CertificateValidationContext::default()
    }
}

fn trust_bundle_reference() -> SdsSecretConfig {
    SdsSecretConfig {
        name: TRUST_BUNDLE.to_owned(),
        sds_config: Some(ads()),
    }
}

/// SDS `trust-bundle`.
pub(super) fn trust_bundle(trust: &TrustBundle) -> Secret {
    Secret {
        name: TRUST_BUNDLE.to_owned(),
        r#type: Some(secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(DataSource {
                specifier: Some(Specifier::InlineString(trust.pem().to_owned())),
            }),
            ..CertificateValidationContext::default()
        })),
    }
}

/// What a listener looks at before it chooses a chain.
#[derive(Clone, Copy)]
pub(super) enum Look {
    OriginalDst,
    Tls,
    Http,
}

pub(super) fn listener_filter(look: Look) -> ListenerFilter {
    let (name, config): (_, Any) = match look {
        Look::OriginalDst => ("original_dst", pack(&OriginalDst {})),
        Look::Tls => ("tls_inspector", pack(&TlsInspector {})),
        Look::Http => ("http_inspector", pack(&HttpInspector {})),
    };
    ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        filter_disabled: None,
    }
}

pub(super) fn network_filter<M: TypeUrl>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(config))),
    }
}

/// Routes from RDS.
pub(super) fn rds(name: String) -> Rds {
    Rds {
        config_source: Some(ads()),
        route_config_name: name,
    }
}

/// HTTP; with an authorization filter where requests are authorized.
pub(super) fn http(
    stat_prefix: &str,
    routes: RouteSpecifier,
    authorization: Option<HttpRbac>,
    dialect: Dialect,
) -> Filter {
    // What is authorized by path must be the path that the application sees. `weir-proxy` refuses ambiguous ones.
    let envoy = authorization.is_some() && dialect == Dialect::Envoy;
    let rbac = authorization.map(|rbac| http_filter(HTTP_RBAC, &rbac));
    let router = http_filter("envoy.filters.http.router", &Router::default());
    network_filter(
        "envoy.filters.network.http_connection_manager",
        &HttpConnectionManager {
            stat_prefix: stat_prefix.to_owned(),
            route_specifier: Some(routes),
            http_filters: rbac.into_iter().chain([router]).collect(),
            upgrade_configs: vec![UpgradeConfig {
                upgrade_type: "websocket".to_owned(),
                enabled: None,
                ..UpgradeConfig::default()
            }],
            // A gRPC stream or a WebSocket may be silent for long; the default would end it after five minutes.
            stream_idle_timeout: Some(seconds(0)),
            normalize_path: envoy.then_some(true),
            merge_slashes: envoy,
            path_with_escaped_slashes_action: match envoy {
                true => PathWithEscapedSlashesAction::RejectRequest,
                false => PathWithEscapedSlashesAction::ImplementationSpecificDefault,
            }
            .into(),
            ..HttpConnectionManager::default()
        },
    )
}

/// Bytes to one cluster, or to several by weight. No cluster, or only weights of 0: `None`.
pub(super) fn tcp(stat_prefix: &str, clusters: &[(String, u32)]) -> Option<Filter> {
    let weighted: Vec<_> = clusters.iter().filter(|(_, weight)| *weight > 0).collect();
    let specifier = match weighted.as_slice() {
        [] => return None,
        [(name, _)] => ClusterSpecifier::Cluster(name.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..ClusterWeight::default()
                })
                .collect(),
        }),
    };
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(specifier),
        ..TcpProxy::default()
    };
    Some(network_filter("envoy.filters.network.tcp_proxy", &proxy))
}

fn http_filter<M: TypeUrl>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(config))),
        ..HttpFilter::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MeshSettings;

    #[test]
    fn tls_is_as_the_mesh_says() {
        let mut tls = MeshSettings::default().tls;
        let usual = tls_parameters(&tls);
        assert_eq!(usual.tls_minimum_protocol_version, TlsProtocol::TlSv13 as i32);
        assert!(usual.cipher_suites.is_empty() && usual.ecdh_curves.is_empty());
        tls.allow_1_2 = true;
        tls.cipher_suites = vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned()];
        tls.curves = vec!["P-256".to_owned()];
        let chosen = tls_parameters(&tls);
        assert_eq!(chosen.tls_minimum_protocol_version, TlsProtocol::TlSv12 as i32);
        assert_eq!(
            (chosen.cipher_suites, chosen.ecdh_curves),
            (tls.cipher_suites, tls.curves)
        );
    }
}
