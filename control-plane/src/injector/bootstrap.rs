//! The sidecar's bootstrap, given on its command line: where the control plane is, whom to trust, and the
//! listeners of the probes.

use serde_json::{Value, json};

use super::{
    Settings, TOKEN_PATH, envoy,
    probes::{self, HttpProbe, ProbeListener, ProbeListeners},
};

const XDS_CLUSTER: &str = "xds";
const XDS_PORT: u16 = 15128;
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const TLS_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// The bootstrap as one line of JSON (which is YAML too), safe against Kubernetes' `$(VAR)` expansion.
pub(super) fn render(settings: &Settings, namespace: &str, account: &str, probes: &ProbeListeners) -> String {
    let mut bootstrap = message(settings, namespace, account, probes);
    bootstrap["admin"] = json!({ "address": address("127.0.0.1", 15000) });
    escaped(&bootstrap)
}

/// The bootstrap of what only gets a certificate, for the proxy beside it.
pub(super) fn render_agent(settings: &Settings, namespace: &str, account: &str) -> String {
    escaped(&message(settings, namespace, account, &ProbeListeners::default()))
}

fn message(settings: &Settings, namespace: &str, account: &str, probes: &ProbeListeners) -> Value {
    let all: Vec<_> = std::iter::once(control_plane(settings))
        .chain(clusters(probes))
        .collect();
    json!({
        "node": {
            "cluster": format!("{account}.{namespace}"),
            "metadata": { "WEIR_TOKEN_PATH": TOKEN_PATH },
        },
        "dynamic_resources": dynamic_resources("DELTA_GRPC"),
        "static_resources": {
            "listeners": listeners(probes),
            "clusters": all,
            "secrets": [{
                "name": "trust-bundle",
                "validation_context": { "trusted_ca": { "inline_string": settings.trust_bundle } },
            }],
        },
    })
}

/// The stream alone: listeners and clusters are asked for by name, as they are used.
pub(super) fn dynamic_resources(api_type: &str) -> Value {
    json!({
        "ads_config": {
            "api_type": api_type,
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": XDS_CLUSTER } }],
        },
    })
}

/// The listeners of a bootstrap that [`render`] wrote; `None`: it did not.
pub(super) fn read_probes(bootstrap: &str) -> Option<ProbeListeners> {
    ProbeListeners::read(&unescaped(bootstrap)?)
}

/// The same bootstrap with these listeners in place of its own.
pub(super) fn with_probes(bootstrap: &str, probes: &ProbeListeners) -> Option<String> {
    let mut bootstrap = unescaped(bootstrap)?;
    let statics = bootstrap.get_mut("static_resources")?.as_object_mut()?;
    let kept = statics.get("clusters")?.as_array()?.iter();
    let kept = kept.filter(|cluster| {
        let name = cluster.get("name").and_then(Value::as_str);
        !name.is_some_and(|name| name.starts_with(probes::CLUSTER))
    });
    let all: Vec<_> = kept.cloned().chain(clusters(probes)).collect();
    let kept = statics.get("listeners")?.as_array()?.iter();
    let kept = kept.filter(|listener| listener["name"] == envoy::PAGES).cloned();
    let served: Vec<_> = kept.chain(listeners(probes)).collect();
    statics.insert("clusters".to_owned(), all.into());
    statics.insert("listeners".to_owned(), served.into());
    Some(escaped(&bootstrap))
}

/// Kubernetes takes `$(NAME)` for a variable and `$$` for a `$`.
pub(super) fn escaped(bootstrap: &Value) -> String {
    bootstrap.to_string().replace('$', "$$")
}

fn unescaped(bootstrap: &str) -> Option<Value> {
    serde_json::from_str(&bootstrap.replace("$$", "$")).ok()
}

pub(super) fn listeners(probes: &ProbeListeners) -> Vec<Value> {
    probes
        .iter()
        .map(|(port, probes)| listener(port, probes))
        .collect()
}

pub(super) fn address(ip: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

/// Every address of the pod, of both families.
pub(super) fn any_address(port: u16) -> Value {
    json!({ "socket_address": { "address": "::", "port_value": port, "ipv4_compat": true } })
}

/// The probed ports of the application.
pub(super) fn clusters(probes: &ProbeListeners) -> Vec<Value> {
    let mut ports: Vec<u16> = probes.iter().flat_map(|(_, listener)| listener.ports()).collect();
    ports.sort_unstable();
    ports.dedup();
    let probed = ports
        .into_iter()
        .map(|port| cluster(&probe_cluster(port), "STATIC", "127.0.0.1", port));
    probed.collect()
}

pub(super) fn cluster(name: &str, kind: &str, host: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": kind,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(host, port) } }] }],
        },
    })
}

pub(super) fn control_plane(settings: &Settings) -> Value {
    let host = format!("weir-controller.{}.svc.cluster.local", settings.mesh_namespace);
    let mut control_plane = cluster(XDS_CLUSTER, "LOGICAL_DNS", &host, XDS_PORT);
    control_plane["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": UPSTREAM_TLS,
            "sni": host,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [{ "name": "workload-cert" }],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": host } }],
                    },
                    "validation_context_sds_secret_config": { "name": "trust-bundle" },
                },
            },
        },
    });
    control_plane["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    control_plane
}

fn probe_cluster(port: u16) -> String {
    format!("{}{port}", probes::CLUSTER)
}

/// TLS goes to the HTTPS probe's port untouched; what is not TLS is routed by path.
fn listener(port: u16, probe: &ProbeListener) -> Value {
    let name = probes::name(port);
    let stat_prefix = name.replace('-', "_");
    let mut routes: Vec<Value> = probe.http.iter().map(http_route).collect();
    routes.extend(probe.grpc.map(|port| {
        json!({
            "match": { "prefix": "/grpc.health.v1.Health/" },
            "route": { "cluster": probe_cluster(port), "timeout": "10s" },
        })
    }));
    let http = http(name, &stat_prefix, "probes", &routes);
    let mut listener = json!({
        "name": name,
        "address": any_address(port),
        "default_filter_chain": { "name": "http", "filters": [http] },
    });
    if let Some(port) = probe.https {
        listener["listener_filters"] = json!([{ "name": "envoy.filters.listener.tls_inspector", "typed_config": { "@type": TLS_INSPECTOR } }]);
        listener["filter_chains"] = json!([{
            "name": "https",
            "filter_chain_match": { "transport_protocol": "tls" },
            "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": TCP_PROXY,
                    "stat_prefix": stat_prefix,
                    "cluster": probe_cluster(port),
                },
            }],
        }]);
    }
    listener
}

/// HTTP with these routes, for any host.
pub(super) fn http(name: &str, stat_prefix: &str, host: &str, routes: &[Value]) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": HCM,
            "stat_prefix": stat_prefix,
            "route_config": {
                "name": name,
                "virtual_hosts": [{ "name": host, "domains": ["*"], "routes": routes }],
            },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": { "@type": ROUTER } }],
        },
    })
}

fn http_route(probe: &HttpProbe) -> Value {
    json!({
        "match": { "path": probe.path },
        "route": {
            "cluster": probe_cluster(probe.port),
            "prefix_rewrite": probe.original,
            "timeout": format!("{}s", probe.timeout),
        },
    })
}
