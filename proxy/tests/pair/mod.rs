//! Two sidecars in one process, as two listeners: client → `outbound` → `inbound` → application. Plaintext
//! between them: what is tested here is HTTP and TCP.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

pub mod change;
pub mod secure;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use weir_proxy::{app::App, config::Args, drain::Drain, telemetry::Telemetry, xds::Store};

/// Nothing here takes longer unless it is broken.
pub const LIMIT: Duration = Duration::from_secs(10);

pub struct Pair {
    /// HTTP to the application through both sidecars.
    pub http: SocketAddr,
    /// Bytes to the application, declared as such.
    pub tcp: SocketAddr,
    /// Anything to the application, undeclared.
    pub undeclared: SocketAddr,
    /// HTTP to the application through the inbound sidecar only.
    pub inbound: SocketAddr,
    /// Bytes to the application through the inbound sidecar only.
    pub inbound_tcp: SocketAddr,
    pub drain: Drain,
    pub store: Store,
    pub telemetry: Telemetry,
    pub application: TcpListener,
}

pub fn free_port() -> u16 {
    let [port] = weir_testbed::free_ports().unwrap();
    port
}

fn cluster(name: &str, port: u16) -> String {
    format!(
        "{{name: {name}, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: \
         [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
    )
}

fn http_filter(cluster: &str) -> String {
    format!(
        r#"{{name: http, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
  stat_prefix: http, upgrade_configs: [{{upgrade_type: websocket}}],
  route_config: {{name: r, virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}, timeout: 0s}}}}]}}]}},
  http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}"#
    )
}

fn tcp_filter(cluster: &str) -> String {
    format!(
        r#"{{name: tcp, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: {cluster}}}}}"#
    )
}

fn listener(name: &str, port: u16, direction: &str, chains: &str, more: &str) -> String {
    format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, \
         traffic_direction: {direction}, filter_chains: [{chains}]{more}}}"
    )
}

impl Pair {
    /// Starts both sidecars before an application that has yet to accept.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with more flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let app_port = application.local_addr().unwrap().port();
        let [outbound, inbound, tcp_out, tcp_in, undeclared] = weir_testbed::free_ports().unwrap();
        let inspect = r#", listener_filters: [{name: http_inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}], listener_filters_timeout: 0.2s, continue_on_listener_filters_timeout: true"#;
        let one = |filter: String| format!("{{filters: [{filter}]}}");
        let either = format!(
            r#"{{filter_chain_match: {{application_protocols: ["http/1.1", "h2c"]}}, filters: [{}]}}, {}"#,
            http_filter("inbound"),
            one(tcp_filter("inbound-tcp")),
        );
        let yaml = format!(
            "{{node: {{id: test, cluster: test}}, static_resources: {{clusters: [{}, {}, {}], listeners: [{}, {}, {}, {}, {}]}}}}",
            cluster("application", app_port),
            cluster("inbound", inbound),
            cluster("inbound-tcp", tcp_in),
            listener(
                "outbound-http",
                outbound,
                "OUTBOUND",
                &one(http_filter("inbound")),
                ""
            ),
            listener(
                "inbound-http",
                inbound,
                "INBOUND",
                &one(http_filter("application")),
                ""
            ),
            listener(
                "outbound-tcp",
                tcp_out,
                "OUTBOUND",
                &one(tcp_filter("inbound-tcp")),
                ""
            ),
            listener(
                "inbound-tcp",
                tcp_in,
                "INBOUND",
                &one(tcp_filter("application")),
                ""
            ),
            listener("undeclared", undeclared, "OUTBOUND", &either, inspect),
        );
        let args = [
            "weir-proxy",
            "--config-yaml",
            &yaml,
            "--stats-address",
            "off",
            "--health-address",
            "off",
        ];
        let args = [&args[..], flags].concat();
        let config = Args::try_parse_from(args).unwrap().load().unwrap();
        let mut app = App::new(config);
        app.start().unwrap();
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            http: local(outbound),
            tcp: local(tcp_out),
            undeclared: local(undeclared),
            inbound: local(inbound),
            inbound_tcp: local(tcp_in),
            drain: app.drain(),
            store: app.store(),
            telemetry: app.telemetry(),
            application,
        }
    }

    /// The application's socket, to be served elsewhere.
    pub fn take_application(&mut self) -> TcpListener {
        let placeholder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        placeholder.set_nonblocking(true).unwrap();
        let placeholder = TcpListener::from_std(placeholder).unwrap();
        std::mem::replace(&mut self.application, placeholder)
    }

    /// The next connection that reaches the application.
    pub async fn accept(&self) -> Wire {
        let (stream, _) = soon(self.application.accept()).await.unwrap();
        Wire::new(stream)
    }
}

/// Fails a test that waits for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future)
        .await
        .expect("it should have happened by now")
}

/// One end of a connection, spoken by hand.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(soon(TcpStream::connect(address)).await.unwrap())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads until the text is there, and gives everything up to and with it.
    pub async fn until(&mut self, text: &str) -> String {
        let read = soon(self.bytes_until(text)).await;
        let bytes = read.unwrap_or_else(|| {
            let got = String::from_utf8_lossy(&self.buffer);
            panic!("ended before {text:?}; got {got:?}")
        });
        String::from_utf8(bytes).unwrap()
    }

    /// The same for any bytes, however long it takes; `None`: it ended before.
    pub async fn bytes_until(&mut self, text: &str) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            let mut windows = self.buffer[searched..].windows(text.len());
            if let Some(start) = windows.position(|window| window == text.as_bytes()) {
                let rest = self.buffer.split_off(searched + start + text.len());
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            searched = self.buffer.len().saturating_sub(text.len() - 1);
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The head of the next message; `None`: there is none.
    pub async fn next_head(&mut self) -> Option<String> {
        while !self.buffer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
        Some(self.head().await)
    }

    /// The head of a message, header names in lower case.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// Reads to the end.
    pub async fn rest(&mut self) -> String {
        soon(self.stream.read_to_end(&mut self.buffer)).await.unwrap();
        String::from_utf8(std::mem::take(&mut self.buffer)).unwrap()
    }
}
