//! Resources as the server sends them, in protobuf's JSON form.

use serde_json::{Value, json};

const TYPE: &str = "type.googleapis.com/envoy.";
pub(crate) const KINDS: [&str; 5] = ["cds", "eds", "sds", "lds", "rds"];

/// The type URL of a kind such as `cds`.
pub(crate) fn url(kind: &str) -> String {
    let name = match kind {
        "cds" => "config.cluster.v3.Cluster",
        "eds" => "config.endpoint.v3.ClusterLoadAssignment",
        "sds" => "extensions.transport_sockets.tls.v3.Secret",
        "lds" => "config.listener.v3.Listener",
        "rds" => "config.route.v3.RouteConfiguration",
        other => panic!("{other} is not a kind"),
    };
    format!("{TYPE}{name}")
}

/// A cluster whose endpoints come by its name.
pub(crate) fn cluster(name: &str) -> Value {
    json!({
        "@type": url("cds"),
        "name": name,
        "type": "EDS",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        "connect_timeout": "5s",
    })
}

/// One endpoint on loopback.
pub(crate) fn endpoints(name: &str, port: u16) -> Value {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    json!({
        "@type": url("eds"),
        "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    })
}

/// Everything to one cluster.
pub(crate) fn routes(name: &str, cluster: &str) -> Value {
    json!({
        "@type": url("rds"),
        "name": name,
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }],
        }],
    })
}

/// HTTP on a port of loopback, with routes of their own.
pub(crate) fn listener(name: &str, port: u16, routes: &str) -> Value {
    let router = json!({ "@type": format!("{TYPE}extensions.filters.http.router.v3.Router") });
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "@type": url("lds"),
        "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "http",
                "rds": { "route_config_name": routes, "config_source": source },
                "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": router }],
            },
        }] }],
    })
}

/// What is found by its address only; `mark` tells versions apart.
pub(crate) fn unbound(name: &str, mark: &str) -> Value {
    json!({
        "@type": url("lds"),
        "name": name,
        "address": { "socket_address": { "address": "10.0.0.1", "port_value": 80 } },
        "bind_to_port": false,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPE}extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": mark,
                "cluster": "c",
            },
        }] }],
    })
}

/// Roots, and names that tell versions apart.
pub(crate) fn secret(name: &str, pem: &str, mark: &str) -> Value {
    json!({
        "@type": url("sds"),
        "name": name,
        "validation_context": {
            "trusted_ca": { "inline_string": pem },
            "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": mark } }],
        },
    })
}

/// A root certificate.
pub(crate) fn root() -> String {
    let made = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap();
    made.cert.pem()
}
