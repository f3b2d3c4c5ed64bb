//! A request that reached no application is sent to another pod.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::{net::SocketAddr, sync::Arc};

use pair::{
    Pair, Wire, change, free_port,
    secure::{ME, certify, secure},
    soon,
};
use weir_proxy::{
    model::{Cluster, Discovery, Endpoint, Endpoints, Listener},
    xds::State,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

fn endpoint(address: SocketAddr, principal: Option<&str>) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        principal: principal.map(Into::into),
        workload: Arc::default(),
    }
}

fn at(endpoints: Vec<Endpoint>) -> Discovery {
    Discovery::Static(Arc::new(Endpoints { endpoints }))
}

/// Two pods behind the client's sidecar: `inbound-http`, whose application is gone, and `inbound-tcp`, whose is not.
async fn half_gone(pair: &Pair) {
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut watched = pair.store.watch::<Cluster>("application");
    let mut cluster = Cluster::clone(&*soon(watched.answered()).await.unwrap());
    cluster.name = "gone".to_owned();
    cluster.discovery = at(vec![endpoint(gone, None)]);
    pair.store.publish("gone", State::Ready(Arc::new(cluster)));
    let mut watched = pair.store.watch::<Listener>("inbound-http");
    let there = soon(watched.answered()).await.unwrap().chains[0].terminal.clone();
    change::chains(&pair.store, "inbound-tcp", |chain| chain.terminal = there.clone()).await;
    change::destinations(&pair.store, "inbound-http", |destination| {
        for cluster in &mut destination.clusters {
            cluster.cluster = "gone".to_owned();
        }
    })
    .await;
}

async fn both(pair: &Pair) {
    let pods = [pair.inbound, pair.inbound_tcp].map(|pod| endpoint(pod, Some(ME)));
    change::cluster(&pair.store, "inbound", |cluster| {
        cluster.discovery = at(pods.to_vec())
    })
    .await;
}

/// Answers whatever is asked, also what ends with a chunked body.
fn answer(pair: &mut Pair) {
    let application = pair.take_application();
    tokio::spawn(async move {
        while let Ok((stream, _)) = application.accept().await {
            tokio::spawn(async move {
                let mut app = Wire::new(stream);
                loop {
                    let head = app.head().await;
                    if head.starts_with("post") {
                        app.until("first").await;
                        app.until("last\r\n0\r\n\r\n").await;
                    }
                    app.send("HTTP/1.1 204 No Content\r\nx-weir-again: unsent\r\n\r\n")
                        .await;
                }
            });
        }
    });
}

/// How many requests met the pod whose application is gone.
fn refused(pair: &Pair) -> u64 {
    let metrics = pair.telemetry.render();
    let series = r#"weir_responses_total{direction="inbound",code_class="5xx",reason="connect_failed"} "#;
    let counted = metrics.lines().find_map(|line| line.strip_prefix(series));
    counted.map_or(0, |count| count.parse().unwrap())
}

async fn ask(client: &mut Wire, request: &str) -> String {
    client.send(request).await;
    client.head().await
}

async fn secured() -> Pair {
    let mut pair = Pair::start().await;
    answer(&mut pair);
    certify(&pair.store);
    secure(&pair.store, "inbound-http", "inbound", ME).await;
    secure(&pair.store, "inbound-tcp", "inbound-tcp", ME).await;
    soon(async {
        loop {
            let mut client = Wire::connect(pair.http).await;
            if ask(&mut client, GET).await.starts_with("http/1.1 204") {
                return;
            }
        }
    })
    .await;
    half_gone(&pair).await;
    pair
}

#[tokio::test]
async fn a_request_that_met_no_application_goes_to_another_pod() {
    let pair = secured().await;
    both(&pair).await;
    let mut client = Wire::connect(pair.http).await;
    let mut asked = 0;
    while asked < 20 || refused(&pair) == 0 {
        let head = ask(&mut client, GET).await;
        assert!(
            head.starts_with("http/1.1 204") && !head.contains("x-weir-again"),
            "{head}"
        );

        client
            .send("POST / HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await;
        tokio::task::yield_now().await;
        client.send("4\r\nlast\r\n0\r\n\r\n").await;
        let head = client.head().await;
        assert!(
            head.starts_with("http/1.1 204") && !head.contains("x-weir-again"),
            "{head}"
        );
        asked += 1;
        assert!(asked < 500, "no request met the pod whose application is gone");
    }
}

#[tokio::test]
async fn a_pod_that_comes_later_is_waited_for() {
    let pair = secured().await;
    let mut client = Wire::connect(pair.http).await;
    soon(async { while !ask(&mut client, GET).await.contains("http/1.1 503") {} }).await;
    let before = refused(&pair);
    let meets_it = async {
        while refused(&pair) == before {
            tokio::task::yield_now().await;
        }
        both(&pair).await;
    };
    let (head, ()) = tokio::join!(ask(&mut client, GET), soon(meets_it));
    assert!(head.contains("http/1.1 204"), "{head}");
}

#[tokio::test]
async fn an_opaque_connection_goes_to_another_pod_when_one_cannot_be_reached() {
    let pair = Pair::start().await;
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let pods = [gone, pair.inbound_tcp].map(|pod| endpoint(pod, None));
    change::cluster(&pair.store, "inbound-tcp", |cluster| {
        cluster.discovery = at(pods.to_vec())
    })
    .await;
    for _ in 0..20 {
        let mut client = Wire::connect(pair.tcp).await;
        client.send("hello").await;
        pair.accept().await.until("hello").await;
    }
}
