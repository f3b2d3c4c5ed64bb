//! What probes and people are told of a proxy on its way to serving, and how it is asked to end.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use clap::Parser;
use pair::{Wire, soon};
use tokio::net::{TcpListener, TcpStream};
use weir_proxy::{
    app::{App, AppError},
    config::Args,
    model::{Direction, Inspect, Listener},
    xds::{Source, State, Store},
};

fn free_port() -> u16 {
    let [port] = weir_testbed::free_ports().unwrap();
    port
}

/// A proxy whose control plane is not there, and its admin address.
fn proxy(node: &str, health: &str) -> (App, SocketAddr) {
    let (admin, nowhere) = (free_port(), free_port());
    let yaml = format!(
        "{{node: {{id: uid-1, cluster: a.b{node}}}, \
         admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}, \
         dynamic_resources: {{ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, \
         grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}}}, \
         static_resources: {{clusters: [{{name: xds, type: STATIC, connect_timeout: 1s, load_assignment: \
         {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {nowhere}}}}}}}}}]}}]}}}}]}}}}"
    );
    let args = [
        "weir-proxy",
        "--config-yaml",
        &yaml,
        "--stats-address",
        "off",
        "--health-address",
        health,
    ];
    let config = Args::try_parse_from(args).unwrap().load().unwrap();
    (App::new(config), (Ipv4Addr::LOCALHOST, admin).into())
}

async fn ask(server: SocketAddr, method: &str, path: &str) -> String {
    let mut wire = Wire::connect(server).await;
    wire.send(format!("{method} {path} HTTP/1.1\r\nhost: {server}\r\n\r\n"))
        .await;
    wire.rest().await
}

/// Asks until the answer has the text.
async fn eventually(server: SocketAddr, path: &str, text: &str) -> String {
    soon(async {
        loop {
            let answer = ask(server, "GET", path).await;
            if answer.contains(text) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn serve(store: &Store, name: &str, direction: Direction) {
    let listener = Listener {
        name: name.to_owned(),
        address: Some((Ipv4Addr::LOCALHOST, free_port()).into()),
        original_dst: true,
        direction,
        inspect: Inspect::default(),
        chains: Vec::new(),
        default_chain: None,
    };
    store.apply(name, State::Ready(Arc::new(listener)), Source::default());
}

#[tokio::test]
async fn it_is_ready_when_both_listeners_are_there() {
    let (mut app, admin) = proxy("", "off");
    app.serve_pages().unwrap();
    let early = ask(admin, "GET", "/ready").await;
    assert!(
        early.starts_with("HTTP/1.1 503") && early.contains("static listeners"),
        "{early}"
    );
    app.start().unwrap();
    let waiting = eventually(admin, "/ready", "xds: transport error").await;
    assert!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
    assert_eq!(waiting.matches("Connection refused").count(), 1, "{waiting}");
    assert!(!waiting.contains("static listeners"), "{waiting}");
    assert!(!waiting.contains("certificate"), "{waiting}");

    serve(&app.store(), "inbound", Direction::Inbound);
    let waiting = eventually(admin, "/ready", "NOT READY\nxds: ").await;
    assert!(
        waiting.contains("listener outbound: not received yet"),
        "{waiting}"
    );
    serve(&app.store(), "outbound", Direction::Outbound);
    eventually(admin, "/ready", "HTTP/1.1 200").await;

    ask(admin, "POST", "/drain_listeners").await;
    let draining = ask(admin, "GET", "/ready").await;
    assert!(
        draining.starts_with("HTTP/1.1 503") && draining.contains("draining"),
        "{draining}"
    );
}

#[tokio::test]
async fn it_is_not_ready_without_its_certificate() {
    let (mut app, admin) = proxy(", metadata: {WEIR_TOKEN_PATH: /nonexistent/token}", "off");
    app.serve_pages().unwrap();
    app.start().unwrap();
    serve(&app.store(), "inbound", Direction::Inbound);
    serve(&app.store(), "outbound", Direction::Outbound);
    let waiting = eventually(admin, "/ready", "NOT READY\ncertificate: cannot read").await;
    assert!(waiting.contains("/nonexistent/token"), "{waiting}");
    let certs = ask(admin, "GET", "/certs").await;
    assert!(
        certs.contains("last_error") && certs.contains("/nonexistent/token"),
        "{certs}"
    );
}

#[tokio::test]
async fn it_ends_when_asked_to() {
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let (app, admin) = proxy("", &health.to_string());
    let running = tokio::spawn(app.run());
    soon(async {
        while TcpStream::connect(health).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(
        ask(health, "POST", "/quitquitquit")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert!(
        ask(admin, "GET", "/quitquitquit")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert!(
        ask(admin, "POST", "/quitquitquit")
            .await
            .starts_with("HTTP/1.1 200")
    );
    soon(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_ends_it_with_the_flag_to_change() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (app, _) = proxy("", &taken.local_addr().unwrap().to_string());
    let error = soon(app.run()).await.unwrap_err();
    assert!(matches!(error, AppError::Pages(_)));
    assert!(error.to_string().contains("--health-address"), "{error}");
}

/// The stats page of a proxy that gives the application's metrics beside its own.
async fn merged(application: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (port, stats) = (listener.local_addr().unwrap().port(), free_port());
    let answer = async move {
        let mut app = Wire::new(listener.accept().await.unwrap().0);
        let head = app.head().await;
        assert!(head.starts_with("get /own/metrics?x=1 http/1.1"), "{head}");
        app.send(application).await;
    };
    let (address, merge) = (format!("127.0.0.1:{stats}"), format!("{port}/own/metrics?x=1"));
    let args = ["weir-proxy", "--config-yaml", "{}", "--health-address", "off"];
    let more = ["--stats-address", &address, "--merge-metrics", &merge];
    let args = Args::try_parse_from([&args[..], &more[..]].concat()).unwrap();
    let app = App::new(args.load().unwrap());
    app.serve_pages().unwrap();
    let asked = ask((Ipv4Addr::LOCALHOST, stats).into(), "GET", "/stats/prometheus");
    let ((), page) = tokio::join!(answer, asked);
    page
}

#[tokio::test]
async fn the_applications_metrics_are_given_with_the_proxys() {
    let page = merged("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n\r\nmine 1").await;
    assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
    assert!(page.contains("# TYPE weir_build_info gauge\n"), "{page}");
    assert!(page.ends_with("weir_application_up 1\nmine 1\n"), "{page}");

    let page =
        merged("HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text\r\n\r\nmine 1\n# EOF\n").await;
    assert!(
        page.contains("content-type: application/openmetrics-text"),
        "{page}"
    );
    assert!(page.ends_with("weir_application_up 1\nmine 1\n# EOF\n"), "{page}");
    assert_eq!(page.matches("# EOF").count(), 1);

    let page = merged("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    assert!(
        page.contains("weir_build_info{") && page.ends_with("weir_application_up 0\n# EOF\n"),
        "{page}"
    );
}
