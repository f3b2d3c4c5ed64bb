//! The configuration of one sidecar of a pair, as an Envoy v3 bootstrap that Envoy and weir-proxy both read: mutual
//! TLS between the two, one principal allowed, HTTP routing on both sides, redirected traffic.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Map, Value, json};

use super::{make::Place, pods::Side, scenarios::Protocol};
use crate::bootstrap::{self, Between};

const ORIGINAL_DST: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const STDOUT: &str = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
/// The fields of the access log, which are OSM's.
const LOGGED: [(&str, &str); 19] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("time_to_first_byte", "%RESPONSE_DURATION%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
];

/// The bootstrap of a sidecar.
pub(crate) fn bootstrap(place: &Place<'_>, between: Between) -> Value {
    let (name, secrets, listener, cluster) = match place.side {
        Side::Client => {
            let (listener, cluster) = outbound(place, between);
            (
                "client",
                place.identities.secrets(&place.identities.client),
                listener,
                cluster,
            )
        }
        Side::Server => {
            let (listener, cluster) = inbound(place, between);
            (
                "server",
                place.identities.secrets(&place.identities.server),
                listener,
                cluster,
            )
        }
    };
    json!({
        "node": {"id": format!("bench-{name}"), "cluster": format!("{name}.bench")},
        "static_resources": {"secrets": secrets, "listeners": [listener], "clusters": [cluster]},
    })
}

fn outbound(place: &Place<'_>, between: Between) -> (Value, Value) {
    let filter = match place.protocol.is_http() {
        true => http(place, "AUTO", "server", None),
        false => bootstrap::tcp("server"),
    };
    let tls = (place.protocol != Protocol::TcpPlain).then(bootstrap::upstream_tls);
    let between = match (place.protocol, between) {
        (Protocol::Grpc, Between::Http1) => Between::Http2,
        (_, between) => between,
    };
    let version = place.protocol.is_http().then_some(between);
    (
        redirected("outbound", "OUTBOUND", place.port(), None, vec![filter]),
        bootstrap::cluster("server", place.next(), tls, version),
    )
}

fn inbound(place: &Place<'_>, between: Between) -> (Value, Value) {
    let (codec, local) = match (place.protocol, between) {
        (Protocol::Grpc, _) => ("HTTP2", Between::Http2),
        (_, Between::AsClient) => ("AUTO", Between::Http1),
        // Envoy takes an ALPN other than h2 to mean HTTP/1.1, so AUTO would not do.
        (_, Between::Http1) => ("HTTP1", Between::Http1),
        (_, Between::Http2) => ("HTTP2", Between::Http1),
    };
    let mut filters = Vec::new();
    if place.protocol != Protocol::TcpPlain {
        filters.push(bootstrap::network_rbac());
    }
    filters.push(match place.protocol.is_http() {
        true => http(place, codec, "local", Some(bootstrap::rules())),
        false => bootstrap::tcp("local"),
    });
    let tls = (place.protocol != Protocol::TcpPlain).then(bootstrap::downstream_tls);
    let version = place.protocol.is_http().then_some(local);
    (
        redirected("inbound", "INBOUND", place.port(), tls.as_ref(), filters),
        bootstrap::cluster("local", place.next(), None, version),
    )
}

fn http(place: &Place<'_>, codec: &str, cluster: &str, rbac: Option<Value>) -> Value {
    let mut filter = bootstrap::http(codec, cluster, rbac);
    if place.access_log {
        let fields: Map<_, _> = LOGGED
            .into_iter()
            .map(|(name, field)| (name.to_owned(), field.into()))
            .collect();
        filter["typed_config"]["access_log"] = json!([{
            "name": "envoy.access_loggers.stdout",
            "typed_config": {"@type": STDOUT, "log_format": {"json_format": fields}},
        }]);
    }
    filter
}

/// A listener that is told by the kernel where its connections were meant to go.
fn redirected(name: &str, direction: &str, port: u16, tls: Option<&Value>, filters: Vec<Value>) -> Value {
    let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut listener = bootstrap::listener(name, direction, anywhere, tls, filters);
    listener["listener_filters"] = json!([{
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {"@type": ORIGINAL_DST},
    }]);
    listener
}
