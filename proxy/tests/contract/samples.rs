//! Valid messages to start from, and values to try in a field.

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Value, json};
use weir_xds::ResourceType;

const TYPE: &str = "type.googleapis.com/";

/// A certificate and its key, as PEM.
pub(crate) struct Pem {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pem {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }
}

fn any(name: &str, body: Value) -> Value {
    let mut body = body;
    body["@type"] = format!("{TYPE}{name}").into();
    body
}

fn named(name: &str, any: Value) -> Value {
    json!({ "name": name, "typed_config": any })
}

fn manager(body: Value) -> Value {
    let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let mut body = body;
    body["http_filters"] = json!([http_rbac(), router()]);
    named("http", any(name, body))
}

fn router() -> Value {
    let name = "envoy.extensions.filters.http.router.v3.Router";
    named("router", any(name, json!({})))
}

fn http_rbac() -> Value {
    let name = "envoy.extensions.filters.http.rbac.v3.RBAC";
    named("rbac", any(name, json!({ "rules": rules() })))
}

fn network_rbac() -> Value {
    let name = "envoy.extensions.filters.network.rbac.v3.RBAC";
    named("rbac", any(name, json!({ "rules": rules(), "stat_prefix": "x" })))
}

fn network_limit() -> Value {
    let name = "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit";
    let bucket = json!({ "max_tokens": 3, "tokens_per_fill": 1, "fill_interval": "1s" });
    named("limit", any(name, json!({ "token_bucket": bucket })))
}

fn tcp() -> Value {
    let name = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    named("tcp", any(name, json!({ "cluster": "c" })))
}

fn rules() -> Value {
    json!({ "policies": { "p": policy() } })
}

fn policy() -> Value {
    json!({ "permissions": [{ "any": true }], "principals": [{ "any": true }] })
}

fn secret_config() -> Value {
    json!({ "name": "s", "sds_config": { "ads": {} } })
}

fn tls(side: &str) -> Value {
    let name = format!("envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    let common = json!({
        "tls_certificate_sds_secret_configs": [secret_config()],
        "validation_context_sds_secret_config": secret_config(),
    });
    named("tls", any(&name, json!({ "common_tls_context": common })))
}

fn locality() -> Value {
    locality_of("127.0.0.1")
}

fn locality_of(ip: &str) -> Value {
    let address = json!({ "socket_address": { "address": ip, "port_value": 80 } });
    json!({ "lb_endpoints": [{ "endpoint": { "address": address } }] })
}

fn address() -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": 80 } })
}

fn route() -> Value {
    json!({ "match": { "prefix": "/" }, "route": { "cluster": "c" } })
}

fn table() -> Value {
    json!({ "name": "r", "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [route()] }] })
}

fn listener(filters: Value) -> Value {
    json!({ "name": "l", "address": address(), "filter_chains": [{ "name": "f", "filters": filters }] })
}

/// Resources that decode, of each type, in the order in which they are probed.
pub(crate) fn resources(pem: &Pem) -> Vec<(ResourceType, Value)> {
    let rds = json!({ "route_config_name": "r", "config_source": { "ads": {} } });
    vec![
        (
            ResourceType::Listener,
            listener(json!([
                network_rbac(),
                network_limit(),
                manager(json!({ "rds": rds }))
            ])),
        ),
        (ResourceType::Listener, listener(json!([tcp()]))),
        (ResourceType::Route, table()),
        (
            ResourceType::Cluster,
            json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } }),
        ),
        (
            ResourceType::Cluster,
            json!({ "name": "c", "type": "STATIC", "load_assignment": { "endpoints": [locality()] } }),
        ),
        (
            ResourceType::Cluster,
            json!({ "name": "c", "type": "ORIGINAL_DST", "original_dst_lb_config": {} }),
        ),
        (
            ResourceType::Endpoints,
            json!({ "cluster_name": "c", "endpoints": [locality(), locality_of("127.0.0.9")] }),
        ),
        (
            ResourceType::Secret,
            json!({ "name": "s", "validation_context": { "trusted_ca": { "inline_string": pem.certificate } } }),
        ),
        (
            ResourceType::Secret,
            json!({ "name": "s", "tls_certificate": certificate(pem) }),
        ),
    ]
}

fn certificate(pem: &Pem) -> Value {
    json!({
        "certificate_chain": { "inline_string": pem.certificate },
        "private_key": { "inline_string": pem.key },
    })
}

/// Values for a field, in protobuf's JSON form, each of which makes sense where it is.
pub(crate) fn values(field: &FieldDescriptor, pem: &Pem) -> Vec<Value> {
    let message = field.parent_message().full_name().to_owned();
    let message = message.strip_prefix("envoy.").unwrap_or(&message);
    if let Some(values) = special(message, field.name(), pem) {
        return values;
    }
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            return Vec::new();
        };
        let values = plain(&entry.map_entry_value_field().kind(), pem);
        return values.into_iter().map(|value| json!({ "k": value })).collect();
    }
    let mut values = plain(&field.kind(), pem);
    if matches!(field.kind(), Kind::Bool) && field.containing_oneof().is_none() {
        // Not to be told from a field that is not there.
        values.truncate(1);
    }
    if field.is_list() {
        values.into_iter().map(|value| json!([value])).collect()
    } else {
        values
    }
}

/// Fields whose values must fit their place.
fn special(message: &str, field: &str, pem: &Pem) -> Option<Vec<Value>> {
    let inline = |text: &str| json!({ "inline_string": text });
    if (message, field) == ("config.core.v3.TransportSocket", "typed_config") {
        let sides = ["Upstream", "Downstream"];
        return Some(sides.map(|side| tls(side)["typed_config"].clone()).to_vec());
    }
    let value = match (message, field) {
        ("config.listener.v3.Listener", "listener_filters") => {
            json!([{ "name": "envoy.filters.listener.tls_inspector" }])
        }
        ("config.listener.v3.ListenerFilter", "name") => json!("envoy.filters.listener.http_inspector"),
        ("config.listener.v3.ListenerFilter", "typed_config") => any(
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
            json!({}),
        ),
        ("config.listener.v3.Listener", "filter_chains") => json!([
            { "name": "f", "filters": [network_rbac(), manager(json!({ "route_config": table() }))] },
        ]),
        ("config.listener.v3.FilterChain", "filters") => json!([network_rbac(), network_limit(), tcp()]),
        ("config.listener.v3.FilterChain", "transport_socket") => tls("Downstream"),
        ("config.listener.v3.Filter", "typed_config") => network_limit()["typed_config"].clone(),
        ("config.listener.v3.FilterChainMatch", "transport_protocol") => json!("tls"),
        ("config.listener.v3.FilterChainMatch", "server_names") => json!(["*.a.b"]),
        ("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "http_filters") => {
            json!([http_rbac(), router()])
        }
        ("extensions.filters.network.http_connection_manager.v3.HttpFilter", "typed_config") => {
            http_rbac()["typed_config"].clone()
        }
        ("config.route.v3.VirtualHost" | "config.route.v3.Route", "typed_per_filter_config") => {
            let name = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
            json!({ "rbac": any(name, json!({ "rbac": { "rules": rules() } })) })
        }
        (
            "config.route.v3.RouteConfiguration" | "config.route.v3.WeightedCluster.ClusterWeight",
            "typed_per_filter_config",
        ) => {
            json!({ "rbac": any("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", json!({})) })
        }
        ("config.route.v3.VirtualHost", "domains") => json!(["a.b"]),
        ("config.route.v3.DirectResponseAction", "status") => json!(404),
        ("config.route.v3.DirectResponseAction", "body") => inline("text"),
        ("config.route.v3.RetryPolicy", "retry_on") => json!("gateway-error"),
        ("config.route.v3.RetryPolicy", "retriable_status_codes") => json!([418]),
        ("config.route.v3.RouteMatch", "runtime_fraction") => json!({ "default_value": { "numerator": 50 } }),
        ("config.route.v3.HeaderMatcher", "exact_match") => json!("z"),
        ("config.cluster.v3.Cluster", "transport_socket") => tls("Upstream"),
        ("config.cluster.v3.Cluster", "typed_extension_protocol_options") => {
            let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            json!({ name: any(name, json!({
                "common_http_protocol_options": { "max_requests_per_connection": 9 },
                "explicit_http_config": { "http2_protocol_options": {} },
            })) })
        }
        ("config.core.v3.TypedExtensionConfig", "typed_config") => any(
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
            json!({ "choice_count": 3 }),
        ),
        ("config.core.v3.SocketAddress", "address") => json!("127.0.0.2"),
        ("config.core.v3.CidrRange", "address_prefix") => json!("11.0.0.0"),
        ("config.core.v3.HeaderValue", "raw_value") => json!("YQ=="),
        ("config.core.v3.SubstitutionFormatString", "json_format") => json!({ "method": "%REQ(:METHOD)%" }),
        ("config.core.v3.Metadata", "filter_metadata") => json!({ "weir": { "principal": "spiffe://a" } }),
        ("config.core.v3.DataSource", "inline_string") => json!(pem.certificate),
        ("config.core.v3.DataSource", "inline_bytes") => json!(base64(&pem.certificate)),
        ("config.accesslog.v3.AccessLog", "typed_config") => any(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({ "path": "/dev/stdout" }),
        ),
        ("extensions.access_loggers.file.v3.FileAccessLog", "path") => json!("/dev/stdout"),
        ("extensions.transport_sockets.tls.v3.TlsCertificate", "private_key") => inline(&pem.key),
        ("extensions.transport_sockets.tls.v3.TlsParameters", "cipher_suites") => {
            json!(["ECDHE-RSA-AES128-GCM-SHA256"])
        }
        ("extensions.transport_sockets.tls.v3.TlsParameters", "ecdh_curves") => json!(["P-256"]),
        ("config.rbac.v3.RBAC", "policies") => json!({ "q": policy() }),
        _ => return None,
    };
    Some(vec![value])
}

fn plain(kind: &Kind, pem: &Pem) -> Vec<Value> {
    match kind {
        Kind::Bool => vec![json!(true), json!(false)],
        Kind::String => vec![json!("x")],
        Kind::Bytes => vec![json!("eA==")],
        Kind::Enum(kind) => {
            let names = kind.values().filter(|value| value.number() != 0);
            names.map(|value| json!(value.name())).collect()
        }
        Kind::Message(message) => {
            let name = message.full_name();
            message_values(name.strip_prefix("envoy.").unwrap_or(name), pem)
        }
        _ => vec![json!(7)],
    }
}

/// Values for a field of a message type.
fn message_values(message: &str, pem: &Pem) -> Vec<Value> {
    let value = match message {
        "google.protobuf.BoolValue" => return vec![json!(true), json!(false)],
        "google.protobuf.Duration" => json!("7s"),
        "google.protobuf.Struct" => json!({ "a": "b" }),
        "google.protobuf.Any" => router()["typed_config"].clone(),
        name if name.starts_with("google.protobuf.") => json!(7),
        "config.accesslog.v3.AccessLog" => named(
            "log",
            any(
                "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                json!({}),
            ),
        ),
        "config.accesslog.v3.AccessLogFilter" => json!({ "not_health_check_filter": {} }),
        "config.cluster.v3.CircuitBreakers.Thresholds" => json!({ "max_connections": 3 }),
        "config.cluster.v3.Cluster.EdsClusterConfig" => json!({ "service_name": "x" }),
        "config.core.v3.HttpProtocolOptions" => json!({ "max_requests_per_connection": 9 }),
        "config.core.v3.SocketAddress" => json!({ "address": "127.0.0.1", "port_value": 80 }),
        "config.route.v3.RetryPolicy.RetryBackOff" => json!({ "base_interval": "3s" }),
        "extensions.filters.http.rbac.v3.RBAC" => json!({ "rules": rules() }),
        "config.cluster.v3.CircuitBreakers" => json!({ "thresholds": [{ "max_connections": 3 }] }),
        "config.cluster.v3.LoadBalancingPolicy" => {
            let policy =
                special("config.core.v3.TypedExtensionConfig", "typed_config", pem).unwrap_or_default();
            json!({ "policies": [{ "typed_extension_config": { "name": "l", "typed_config": policy[0] } }] })
        }
        "config.cluster.v3.UpstreamConnectionOptions" => json!({ "tcp_keepalive": { "keepalive_time": 7 } }),
        "config.core.v3.Address" => address(),
        "config.core.v3.CidrRange" => json!({ "address_prefix": "10.0.0.0", "prefix_len": 8 }),
        "config.core.v3.ConfigSource" => json!({ "ads": {} }),
        "config.core.v3.DataSource" => json!({ "inline_string": pem.certificate }),
        "config.core.v3.HeaderValueOption" => json!({ "header": { "key": "x-a", "value": "b" } }),
        "config.core.v3.HeaderValue" => json!({ "key": "x-a", "value": "b" }),
        "config.core.v3.Metadata" => json!({ "filter_metadata": { "weir": { "principal": "spiffe://a" } } }),
        "config.core.v3.RuntimeFractionalPercent" => json!({ "default_value": { "numerator": 100 } }),
        "config.core.v3.SubstitutionFormatString" => json!({ "json_format": { "method": "%REQ(:METHOD)%" } }),
        "config.endpoint.v3.ClusterLoadAssignment" => json!({ "endpoints": [locality()] }),
        "config.endpoint.v3.ClusterLoadAssignment.Policy" => {
            json!({ "drop_overloads": [{ "category": "a" }] })
        }
        "config.endpoint.v3.Endpoint" => json!({ "address": address() }),
        "config.endpoint.v3.LbEndpoint" => json!({ "endpoint": { "address": address() } }),
        "config.endpoint.v3.LocalityLbEndpoints" => locality(),
        "config.listener.v3.FilterChain" => json!({ "name": "g", "filters": [tcp()] }),
        "config.listener.v3.FilterChainMatch" => json!({ "destination_port": 7 }),
        "config.rbac.v3.Permission" | "config.rbac.v3.Principal" => json!({ "any": true }),
        "config.rbac.v3.Permission.Set" => json!({ "rules": [{ "any": true }] }),
        "config.rbac.v3.Principal.Set" => json!({ "ids": [{ "any": true }] }),
        "config.rbac.v3.RBAC" => rules(),
        "config.rbac.v3.Policy" => policy(),
        "config.route.v3.DirectResponseAction" => json!({ "status": 200 }),
        "config.route.v3.HeaderMatcher" => json!({ "name": "x", "string_match": { "exact": "y" } }),
        "config.route.v3.QueryParameterMatcher" => json!({ "name": "q", "string_match": { "exact": "y" } }),
        "config.route.v3.RateLimit" => json!({ "actions": [{ "remote_address": {} }] }),
        "config.route.v3.RedirectAction" => json!({ "host_redirect": "h" }),
        "config.route.v3.RetryPolicy" => json!({ "retry_on": "5xx" }),
        "config.route.v3.Route" => json!({ "match": { "prefix": "/x" }, "route": { "cluster": "d" } }),
        "config.route.v3.RouteAction" => json!({ "cluster": "d" }),
        "config.route.v3.RouteAction.UpgradeConfig"
        | "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig" => {
            json!({ "upgrade_type": "websocket" })
        }
        "config.route.v3.RouteConfiguration" => table(),
        "config.route.v3.RouteMatch" => json!({ "prefix": "/y" }),
        "config.route.v3.VirtualHost" => json!({ "name": "w", "domains": ["w"], "routes": [route()] }),
        "config.route.v3.WeightedCluster" => json!({ "clusters": [{ "name": "d", "weight": 1 }] }),
        "config.route.v3.WeightedCluster.ClusterWeight" => json!({ "name": "d", "weight": 1 }),
        "extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster" => {
            json!({ "clusters": [{ "name": "d", "weight": 1 }] })
        }
        "extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight" => {
            json!({ "name": "d", "weight": 1 })
        }
        "extensions.filters.network.http_connection_manager.v3.Rds" => {
            json!({ "route_config_name": "r", "config_source": { "ads": {} } })
        }
        "extensions.filters.network.http_connection_manager.v3.LocalReplyConfig" => {
            json!({ "mappers": [{ "status_code": 500 }] })
        }
        "extensions.transport_sockets.tls.v3.CertificateValidationContext" => {
            json!({ "trusted_ca": { "inline_string": pem.certificate } })
        }
        "extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext" => {
            json!({
                "default_validation_context": { "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "a" } }] },
                "validation_context_sds_secret_config": secret_config(),
            })
        }
        "extensions.transport_sockets.tls.v3.CommonTlsContext" => {
            tls("Downstream")["typed_config"]["common_tls_context"].clone()
        }
        "extensions.transport_sockets.tls.v3.SdsSecretConfig" => secret_config(),
        "extensions.transport_sockets.tls.v3.SubjectAltNameMatcher" => {
            json!({ "san_type": "URI", "matcher": { "exact": "a" } })
        }
        "extensions.transport_sockets.tls.v3.TlsCertificate" => certificate(pem),
        "extensions.transport_sockets.tls.v3.TlsParameters" => {
            json!({ "cipher_suites": ["ECDHE-ECDSA-AES128-GCM-SHA256"] })
        }
        "extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig" => {
            json!({ "http2_protocol_options": {} })
        }
        "type.matcher.v3.PathMatcher" => json!({ "path": { "exact": "/x" } }),
        "type.matcher.v3.RegexMatcher" => json!({ "regex": "a.*" }),
        "type.matcher.v3.RegexMatchAndSubstitute" => {
            json!({ "pattern": { "regex": "a" }, "substitution": "b" })
        }
        "type.matcher.v3.StringMatcher" => json!({ "exact": "x" }),
        "type.v3.Int32Range" | "type.v3.Int64Range" => json!({ "start": 1, "end": 9 }),
        "type.v3.TokenBucket" => json!({ "max_tokens": 4, "tokens_per_fill": 1, "fill_interval": "1s" }),
        _ => json!({}),
    };
    vec![value]
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS[(bits & 63) as usize]);
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        out.push(digit(bits >> 18));
        out.push(digit(bits >> 12));
        out.push(if chunk.len() > 1 { digit(bits >> 6) } else { '=' });
        out.push(if chunk.len() > 2 { digit(bits) } else { '=' });
    }
    out
}
