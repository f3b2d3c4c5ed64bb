//! What the sidecars start with: where the controller is, and who they are.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::identity::{Identity, Signer};

const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CONTROLLER: &str = "weir-controller.weir-system.svc.cluster.local";

/// The secrets of a sidecar: its certificate, and whom it trusts.
pub(super) fn secrets(signer: &Signer, identity: &Identity) -> [Value; 2] {
    [
        json!({
            "name": "workload-cert",
            "tls_certificate": {
                "certificate_chain": { "inline_string": identity.pem() },
                "private_key": { "inline_string": identity.key() },
            },
        }),
        json!({
            "name": "trust-bundle",
            "validation_context": { "trusted_ca": { "inline_string": signer.root } },
        }),
    ]
}

/// A secret as Envoy reads it from a file.
pub(super) fn secret_file(secret: &Value) -> Value {
    let mut secret = secret.clone();
    secret["@type"] = SECRET.into();
    json!({ "resources": [secret] })
}

/// The bootstrap of weir-proxy: it subscribes to what is connected to.
pub(super) fn weir(uid: &str, controller: SocketAddr, admin: SocketAddr, secrets: &[Value]) -> Value {
    let mut bootstrap = common(uid, controller, admin, |name| json!({ "name": name }));
    bootstrap["static_resources"]["secrets"] = secrets.into();
    bootstrap
}

/// The bootstrap of Envoy: it subscribes to everything, by wildcard; secrets are files in `directory`.
pub(super) fn envoy(uid: &str, controller: SocketAddr, admin: SocketAddr, directory: &str) -> Value {
    let mut bootstrap = common(uid, controller, admin, |name| {
        let path = format!("{directory}/{name}.json");
        let config = json!({ "path_config_source": { "path": path }, "resource_api_version": "V3" });
        json!({ "name": name, "sds_config": config })
    });
    for types in ["lds_config", "cds_config"] {
        bootstrap["dynamic_resources"][types] = json!({ "ads": {}, "resource_api_version": "V3" });
    }
    bootstrap
}

fn common(uid: &str, controller: SocketAddr, admin: SocketAddr, secret: impl Fn(&str) -> Value) -> Value {
    json!({
        "node": { "id": uid, "cluster": "demand" },
        "admin": { "address": address(admin) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
            },
        },
        "static_resources": { "clusters": [{
            "name": "xds",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(controller) } }] }],
            },
            "typed_extension_protocol_options": { HTTP_OPTIONS: {
                "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
                "explicit_http_config": { "http2_protocol_options": {} },
            } },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": UPSTREAM_TLS,
                    "sni": CONTROLLER,
                    "common_tls_context": {
                        "alpn_protocols": ["h2"],
                        "tls_certificate_sds_secret_configs": [secret("workload-cert")],
                        "combined_validation_context": {
                            "default_validation_context": {
                                "match_typed_subject_alt_names": [
                                    { "san_type": "DNS", "matcher": { "exact": CONTROLLER } },
                                ],
                            },
                            "validation_context_sds_secret_config": secret("trust-bundle"),
                        },
                    },
                },
            },
        }] },
    })
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}
