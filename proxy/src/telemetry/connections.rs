//! Client connections: how many, how much they carried, and what the proxy itself ended or answered.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicI64},
};

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::metered::Open;
use crate::{detect::Detected, model::Direction, reason::Reason};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    direction: &'static str,
    protocol: &'static str,
    tls: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TlsLabels {
    tls: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    direction: &'static str,
    flow: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    direction: &'static str,
    code_class: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP of any version.
    Http,
    /// Bytes of any kind.
    Tcp,
}

/// Kinds of connections: of three directions, HTTP or bytes, plain or under TLS.
pub(super) const KINDS: usize = 3 * 2 * 2;

/// The counters of one kind of connection, found ahead of time.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) open: Gauge<i64, AtomicI64>,
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

/// The families about connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    /// By direction, protocol, TLS.
    kinds: Arc<[Kind; KINDS]>,
    /// Connections to endpoints: plain, under TLS.
    upstream: [Counter; 2],
    denied: Family<ReasonLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    detected: Arc<[Counter; 4]>,
    detect_timeout: Counter,
}

impl Connections {
    /// Registers the families.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let opened = Family::<KindLabels, Counter>::default();
        let closed = Family::<KindLabels, Counter>::default();
        let open = Family::<DirectionLabels, Gauge>::default();
        let bytes = Family::<FlowLabels, Counter>::default();
        let kinds = std::array::from_fn(|index| {
            let direction = [Direction::Unspecified, Direction::Inbound, Direction::Outbound][index / 4];
            let direction = direction_label(direction);
            let labels = KindLabels {
                direction,
                protocol: ["http", "tcp"][index / 2 % 2],
                tls: ["false", "true"][index % 2],
            };
            let flow = |flow| bytes.get_or_create_owned(&FlowLabels { direction, flow });
            Kind {
                opened: opened.get_or_create_owned(&labels),
                closed: closed.get_or_create_owned(&labels),
                open: open.get_or_create_owned(&DirectionLabels { direction }),
                received: flow("received"),
                sent: flow("sent"),
            }
        });
        let detect = Family::<ResultLabels, Counter>::default();
        let detected = ["tls", "http1", "http2", "opaque"]
            .map(|result| detect.get_or_create_owned(&ResultLabels { result }));
        let upstream = Family::<TlsLabels, Counter>::default();
        let made = Self {
            kinds: Arc::new(kinds),
            upstream: ["false", "true"].map(|tls| upstream.get_or_create_owned(&TlsLabels { tls })),
            denied: Family::default(),
            responses: Family::default(),
            detected: Arc::new(detected),
            detect_timeout: Counter::default(),
        };
        registry.register(
            "weir_connections_opened",
            "Client connections let in, by what they carry; those refused are in weir_denied",
            opened,
        );
        registry.register(
            "weir_connections_closed",
            "Client connections of those that ended",
            closed,
        );
        registry.register("weir_connections_open", "Client connections now", open);
        registry.register(
            "weir_upstream_connections",
            "Connections opened to endpoints; those to the pod's own application are not counted",
            upstream,
        );
        registry.register(
            "weir_bytes",
            "Bytes of client connections, TLS not counted: received from the client, sent to the client",
            bytes,
        );
        registry.register(
            "weir_denied",
            "Client connections that the proxy refused or cut off; refused requests are in weir_responses",
            made.denied.clone(),
        );
        registry.register(
            "weir_responses",
            "Responses that the proxy made itself",
            made.responses.clone(),
        );
        registry.register(
            "weir_detect",
            "What connections of undeclared protocol turned out to be",
            detect,
        );
        registry.register(
            "weir_detect_timeout",
            "Clients that sent nothing to be recognized within the detect timeout",
            made.detect_timeout.clone(),
        );
        made
    }

    /// Counts a connection let in, from now until what is returned is dropped.
    pub fn open(&self, direction: Direction, protocol: Protocol, tls: bool) -> Open {
        let direction = match direction {
            Direction::Unspecified => 0,
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let index = direction * 4 + usize::from(protocol == Protocol::Tcp) * 2 + usize::from(tls);
        Open::new(self.kinds.clone(), index)
    }

    /// Counts a connection opened to an endpoint, if it leaves the pod.
    pub fn connected(&self, endpoint: SocketAddr, tls: bool) {
        if !endpoint.ip().is_loopback() {
            self.upstream[usize::from(tls)].inc();
        }
    }

    /// Counts a connection that the proxy refused or cut off.
    pub fn denied(&self, direction: Direction, reason: Reason) {
        let labels = ReasonLabels {
            direction: direction_label(direction),
            reason: reason.as_str(),
        };
        self.denied.get_or_create(&labels).inc();
    }

    /// Counts a response that the proxy made itself.
    pub fn answered(&self, direction: Direction, status: StatusCode, reason: Reason) {
        let labels = ResponseLabels {
            direction: direction_label(direction),
            code_class: match status.as_u16() / 100 {
                1 => "1xx",
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                _ => "5xx",
            },
            reason: reason.as_str(),
        };
        self.responses.get_or_create(&labels).inc();
    }

    /// Counts what was found out about a connection's protocol.
    pub fn detected(&self, detected: &Detected) {
        let index = match detected {
            Detected::Tls(_) => 0,
            Detected::Http1 => 1,
            Detected::Http2 => 2,
            Detected::Opaque => 3,
            Detected::NeedMore => return,
        };
        self.detected[index].inc();
    }

    /// Counts a client that was waited for in vain.
    pub fn detect_timeout(&self) {
        self.detect_timeout.inc();
    }
}

/// The label of a direction.
pub(super) fn direction_label(direction: Direction) -> &'static str {
    match direction {
        Direction::Unspecified => "unspecified",
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    fn has(text: &str, line: &str) {
        assert!(
            text.lines().any(|written| written == line),
            "{line} is not in\n{text}"
        );
    }

    #[tokio::test]
    async fn a_connection_is_counted_with_its_bytes_until_it_is_dropped() {
        let mut registry = Registry::default();
        let connections = Connections::register(&mut registry);
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = connections
            .open(Direction::Inbound, Protocol::Tcp, true)
            .meter(near);
        near.write_all(b"seven b").await.unwrap();
        far.write_all(b"five!").await.unwrap();
        near.read_exact(&mut [0; 5]).await.unwrap();
        let labels = "direction=\"inbound\",protocol=\"tcp\",tls=\"true\"";
        let during = text(&registry);
        has(&during, &format!("weir_connections_opened_total{{{labels}}} 1"));
        has(&during, &format!("weir_connections_closed_total{{{labels}}} 0"));
        has(&during, "weir_connections_open{direction=\"inbound\"} 1");
        has(&during, "weir_bytes_total{direction=\"inbound\",flow=\"sent\"} 7");
        has(
            &during,
            "weir_bytes_total{direction=\"inbound\",flow=\"received\"} 5",
        );
        drop(near);
        let after = text(&registry);
        has(&after, &format!("weir_connections_closed_total{{{labels}}} 1"));
        has(&after, "weir_connections_open{direction=\"inbound\"} 0");
    }

    #[test]
    fn what_the_proxy_does_itself_is_counted_by_reason() {
        let mut registry = Registry::default();
        let connections = Connections::register(&mut registry);
        connections.denied(Direction::Inbound, Reason::RbacConnection);
        connections.answered(Direction::Outbound, StatusCode::NOT_FOUND, Reason::NoRoute);
        connections.detected(&Detected::Http1);
        connections.detect_timeout();
        let text = text(&registry);
        has(
            &text,
            "weir_denied_total{direction=\"inbound\",reason=\"rbac_connection\"} 1",
        );
        has(
            &text,
            "weir_responses_total{direction=\"outbound\",code_class=\"4xx\",reason=\"no_route\"} 1",
        );
        has(&text, "weir_detect_total{result=\"http1\"} 1");
        has(&text, "weir_detect_timeout_total 1");
    }
}
