//! What passes a pair of sidecars is counted, once, by the names that operators know.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::{sync::Arc, time::Duration};

use pair::{Pair, Wire, soon};
use weir_proxy::{
    model::{Cluster, Discovery, Endpoints, Workload},
    xds::State,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

/// Waits until the metrics have this line.
async fn line(pair: &Pair, line: &str) {
    until(pair, line, |text| text.lines().any(|written| written == line)).await;
}

async fn until(pair: &Pair, what: &str, holds: impl Fn(&str) -> bool) {
    for _ in 0..500 {
        if holds(&pair.telemetry.render()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} does not come true in\n{}", pair.telemetry.render());
}

fn destination(pod: &str) -> String {
    let unknown =
        "source_namespace=\"unknown\",source_kind=\"unknown\",source_name=\"unknown\",source_pod=\"unknown\"";
    format!(
        "{unknown},destination_namespace=\"shop\",destination_kind=\"Deployment\",destination_name=\"bookstore\",destination_pod=\"{pod}\""
    )
}

/// Says which pod is behind the endpoint of the outbound cluster.
async fn name_destination(pair: &Pair, pod: &str) {
    let mut watched = pair.store.watch::<Cluster>("inbound");
    let mut cluster = Cluster::clone(&*soon(watched.answered()).await.unwrap());
    let Discovery::Static(endpoints) = &cluster.discovery else {
        panic!("the pair's clusters are static");
    };
    let mut endpoints = Endpoints::clone(endpoints);
    for endpoint in &mut endpoints.endpoints {
        endpoint.workload = Arc::new(Workload {
            namespace: "shop".to_owned(),
            kind: "Deployment".to_owned(),
            name: "bookstore".to_owned(),
            pod: pod.to_owned(),
        });
    }
    cluster.discovery = Discovery::Static(Arc::new(endpoints));
    pair.store.publish("inbound", State::Ready(Arc::new(cluster)));
}

async fn exchange(pair: &Pair, status: &str) {
    let mut client = Wire::connect(pair.http).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok"))
        .await;
    client.until("ok").await;
}

#[tokio::test]
async fn a_request_is_counted_once_on_its_clients_side() {
    let pair = Pair::start().await;
    exchange(&pair, "201 Created").await;
    let unknown = "destination_namespace=\"unknown\",destination_kind=\"unknown\",destination_name=\"unknown\",destination_pod=\"unknown\"} 1";
    until(&pair, "the request", |text| {
        let requests = text.lines().filter(|line| line.starts_with("osm_request_total{"));
        let requests: Vec<_> = requests.collect();
        requests.len() == 1 && requests[0].contains("response_code=\"201\"") && requests[0].ends_with(unknown)
    })
    .await;
    for direction in ["inbound", "outbound"] {
        let labels = format!("direction=\"{direction}\",protocol=\"http\",tls=\"false\"");
        line(&pair, &format!("weir_connections_opened_total{{{labels}}} 1")).await;
    }
    let (received, sent) = (
        GET.len(),
        "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok".len(),
    );
    let bytes = |flow, count| format!("weir_bytes_total{{direction=\"outbound\",flow=\"{flow}\"}} {count}");
    line(&pair, &bytes("received", received)).await;
    line(&pair, &bytes("sent", sent)).await;
    line(&pair, "weir_endpoints{service=\"inbound\"} 1").await;
    // The client has left.
    let labels = "direction=\"outbound\",protocol=\"http\",tls=\"false\"";
    line(&pair, &format!("weir_connections_closed_total{{{labels}}} 1")).await;
    line(&pair, "weir_connections_open{direction=\"outbound\"} 0").await;
}

#[tokio::test]
async fn requests_are_counted_for_a_pod_as_long_as_it_is_an_endpoint() {
    let pair = Pair::start().await;
    exchange(&pair, "200 OK").await;
    for pod in ["bookstore-1", "bookstore-2"] {
        name_destination(&pair, pod).await;
        let counted = format!("osm_request_total{{response_code=\"200\",{}}}", destination(pod));
        let duration = format!("osm_request_duration_ms_count{{{}}}", destination(pod));
        loop {
            // The change has reached the data path once a request is counted there.
            exchange(&pair, "200 OK").await;
            if pair.telemetry.render().contains(&counted) {
                break;
            }
        }
        until(&pair, &duration, |text| text.contains(&duration)).await;
    }
    until(&pair, "the first pod's end", |text| !text.contains("bookstore-1")).await;
}

#[tokio::test]
async fn what_a_sidecar_answers_itself_is_counted_by_its_reason() {
    let mut pair = Pair::start().await;
    let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    drop(std::mem::replace(&mut pair.application, nowhere));
    let mut client = Wire::connect(pair.http).await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("http/1.1 503"));
    line(
        &pair,
        "weir_responses_total{direction=\"inbound\",code_class=\"5xx\",reason=\"connect_failed\"} 1",
    )
    .await;
    until(&pair, "the client's count", |text| {
        text.contains("osm_request_total{response_code=\"503\"")
    })
    .await;
    let mut opaque = Wire::connect(pair.tcp).await;
    let _ = soon(tokio::io::AsyncReadExt::read(&mut opaque.stream, &mut [0])).await;
    line(
        &pair,
        "weir_denied_total{direction=\"inbound\",reason=\"connect_failed\"} 1",
    )
    .await;
}

#[tokio::test]
async fn detection_is_counted() {
    let pair = Pair::start().await;
    let mut http = Wire::connect(pair.undeclared).await;
    http.send(GET).await;
    line(&pair, "weir_detect_total{result=\"http1\"} 1").await;
    let _silent = Wire::connect(pair.undeclared).await;
    line(&pair, "weir_detect_timeout_total 1").await;
    line(&pair, "weir_detect_total{result=\"opaque\"} 1").await;
}

#[tokio::test]
async fn bytes_of_an_opaque_connection_are_counted_while_it_is_open() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.tcp).await;
    let mut app = pair.accept().await;
    client.send("question").await;
    app.until("question").await;
    app.send("answer").await;
    client.until("answer").await;
    let bytes = |flow, count| format!("weir_bytes_total{{direction=\"outbound\",flow=\"{flow}\"}} {count}");
    line(&pair, &bytes("received", 8)).await;
    line(&pair, &bytes("sent", 6)).await;
    line(&pair, "weir_connections_open{direction=\"outbound\"} 1").await;
}
