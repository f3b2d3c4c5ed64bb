//! The static configuration of a pair of sidecars, as an Envoy v3 bootstrap that Envoy and weir-proxy both read:
//! mutual TLS between the two, one principal allowed, HTTP routing on both sides.

use std::net::SocketAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use serde_json::{Value, json};

/// The identity that the policy lets in.
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/bench/sa/client";
/// The identity that the client asks for.
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/bench/sa/server";
const ALPN: &str = "osm";

/// The HTTP version between the two sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// That of the request at hand, as Weir's control plane has it.
    AsClient,
}

/// Where the four listeners of a pair are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// The client sidecar, HTTP.
    pub(crate) outbound_http: SocketAddr,
    /// The client sidecar, bytes.
    pub(crate) outbound_tcp: SocketAddr,
    /// The server sidecar, HTTP under TLS.
    pub(crate) inbound_http: SocketAddr,
    /// The server sidecar, bytes under TLS.
    pub(crate) inbound_tcp: SocketAddr,
}

/// Certificates of one pair.
pub(crate) struct Identities {
    /// The root, PEM.
    pub(crate) root: String,
    /// Certificate and key of the client, PEM.
    pub(crate) client: (String, String),
    /// Certificate and key of the server, PEM.
    pub(crate) server: (String, String),
}

impl Identities {
    /// A root and one P-256 certificate for each side.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "weir-bench root");
        let root = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let leaf = |uri: &str| {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            // For proxies that look at no other name.
            params.distinguished_name.push(DnType::CommonName, uri);
            params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
            let certificate = params.signed_by(&key, &issuer)?;
            Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
        };
        Ok(Self {
            root,
            client: leaf(CLIENT)?,
            server: leaf(SERVER)?,
        })
    }

    /// A client of another name under the same root, which the server sidecar has to refuse.
    pub(crate) fn as_stranger(&self) -> Self {
        Self {
            root: self.root.clone(),
            client: self.server.clone(),
            server: self.server.clone(),
        }
    }

    /// The secrets of one side.
    pub(crate) fn secrets(&self, (certificate, key): &(String, String)) -> Value {
        json!([
            {
                "name": "workload-cert",
                "tls_certificate": {
                    "certificate_chain": {"inline_string": certificate},
                    "private_key": {"inline_string": key},
                },
            },
            {"name": "trust-bundle", "validation_context": {"trusted_ca": {"inline_string": self.root}}},
        ])
    }
}

/// The client sidecar.
pub(crate) fn outbound(identities: &Identities, at: &Addresses, between: Between) -> Value {
    json!({
        "node": {"id": "bench-client", "cluster": "client.bench"},
        "static_resources": {
            "secrets": identities.secrets(&identities.client),
            "listeners": [
                listener("outbound_http", "OUTBOUND", at.outbound_http, None, vec![http("AUTO", "server", None)]),
                listener("outbound_tcp", "OUTBOUND", at.outbound_tcp, None, vec![tcp("server_tcp")]),
            ],
            "clusters": [
                cluster("server", at.inbound_http, Some(upstream_tls()), Some(between)),
                cluster("server_tcp", at.inbound_tcp, Some(upstream_tls()), None),
            ],
        },
    })
}

/// The server sidecar; it speaks `local` to the application, or takes bytes there.
pub(crate) fn inbound(
    identities: &Identities,
    at: &Addresses,
    between: Between,
    application: SocketAddr,
    local: Between,
) -> Value {
    let tls = downstream_tls();
    // Envoy takes an ALPN other than h2 to mean HTTP/1.1, so AUTO would not do.
    let codec = match between {
        Between::Http1 => "HTTP1",
        Between::Http2 => "HTTP2",
        Between::AsClient => "AUTO",
    };
    json!({
        "node": {"id": "bench-server", "cluster": "server.bench"},
        "static_resources": {
            "secrets": identities.secrets(&identities.server),
            "listeners": [
                listener(
                    "inbound_http",
                    "INBOUND",
                    at.inbound_http,
                    Some(&tls),
                    vec![network_rbac(), http(codec, "local", Some(rules()))],
                ),
                listener("inbound_tcp", "INBOUND", at.inbound_tcp, Some(&tls), vec![network_rbac(), tcp("local_tcp")]),
            ],
            "clusters": [
                cluster("local", application, None, Some(local)),
                cluster("local_tcp", application, None, None),
            ],
        },
    })
}

/// What the client's side says in the handshake, and whom it expects.
pub(crate) fn upstream_tls() -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": "server.bench.svc.cluster.local",
            "common_tls_context": {
                "alpn_protocols": [ALPN],
                "tls_params": tls_13(),
                "tls_certificate_sds_secret_configs": [{"name": "workload-cert"}],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": SERVER}}],
                    },
                    "validation_context_sds_secret_config": {"name": "trust-bundle"},
                },
            },
        },
    })
}

/// What the server's side asks for in the handshake.
pub(crate) fn downstream_tls() -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": {
                "alpn_protocols": [ALPN],
                "tls_params": tls_13(),
                "tls_certificate_sds_secret_configs": [{"name": "workload-cert"}],
                "validation_context_sds_secret_config": {"name": "trust-bundle"},
            },
        },
    })
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

fn tls_13() -> Value {
    json!({"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"})
}

/// The rule of the policy: one principal may do anything.
pub(crate) fn rules() -> Value {
    json!({
        "action": "ALLOW",
        "policies": {
            "bench/allow-client": {
                "permissions": [{"any": true}],
                "principals": [{"authenticated": {"principal_name": {"exact": CLIENT}}}],
            },
        },
    })
}

/// The filter that lets in one principal.
pub(crate) fn network_rbac() -> Value {
    json!({
        "name": "envoy.filters.network.rbac",
        "typed_config": {
            "@type": type_url("filters.network.rbac.v3.RBAC"),
            "stat_prefix": "rbac",
            "rules": rules(),
        },
    })
}

/// An HTTP filter, which routes to a cluster.
pub(crate) fn http(codec: &str, cluster: &str, rbac: Option<Value>) -> Value {
    let mut filters = Vec::new();
    if let Some(rules) = rbac {
        filters.push(json!({
            "name": "envoy.filters.http.rbac",
            "typed_config": {"@type": type_url("filters.http.rbac.v3.RBAC"), "rules": rules},
        }));
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": type_url("filters.http.router.v3.Router")},
    }));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": type_url("filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": cluster,
            "codec_type": codec,
            "http_filters": filters,
            "route_config": {
                "name": cluster,
                "virtual_hosts": [{
                    "name": "server",
                    "domains": ["server.bench", "server.bench:80"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
                }],
            },
        },
    })
}

/// A filter that takes bytes to a cluster.
pub(crate) fn tcp(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": type_url("filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": cluster,
            "cluster": cluster,
        },
    })
}

/// A listener with one chain.
pub(crate) fn listener(
    name: &str,
    direction: &str,
    at: SocketAddr,
    tls: Option<&Value>,
    filters: Vec<Value>,
) -> Value {
    let mut chain = json!({"name": name, "filters": filters});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({
        "name": name,
        "traffic_direction": direction,
        "address": address(at),
        "filter_chains": [chain],
    })
}

/// A cluster of one endpoint.
pub(crate) fn cluster(name: &str, at: SocketAddr, tls: Option<Value>, http: Option<Between>) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(at)}}]}],
        },
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    if let Some(version) = http {
        let mut options = match version {
            Between::Http1 => json!({"explicit_http_config": {"http_protocol_options": {}}}),
            Between::Http2 => json!({"explicit_http_config": {"http2_protocol_options": {}}}),
            Between::AsClient => json!({"use_downstream_protocol_config": {"http2_protocol_options": {}}}),
        };
        options["@type"] = type_url("upstreams.http.v3.HttpProtocolOptions").into();
        cluster["typed_extension_protocol_options"] =
            json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
    }
    cluster
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}
