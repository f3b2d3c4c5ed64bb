//! Who is carried, and how many connections that takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::net::TcpListener;

use weir_proxy::model::{AppProtocol, Cluster, Discovery, Endpoints, ServerTls};

use super::{
    app::{App, HOLD, POST, handshakes, secured, settle},
    pair::{
        Pair, Wire,
        secure::{ME, certify, change_chain, change_cluster, secure},
        soon,
    },
};

const BURST: usize = 500;

#[tokio::test]
async fn a_burst_opens_few_connections() {
    let app = App::new(Vec::new());
    let pair = secured(&app).await;
    let before = handshakes(&pair);
    let mut clients = Vec::new();
    for _ in 0..BURST {
        let mut client = Wire::connect(pair.http).await;
        client.send(HOLD).await;
        clients.push(client);
    }
    app.until_held(BURST).await;
    let opened = handshakes(&pair) - before;
    assert!(opened <= 10, "{opened} connections for {BURST} requests");
    app.release.add_permits(BURST);
    for client in &mut clients {
        assert!(client.head().await.starts_with("http/1.1 204"));
    }
}

#[tokio::test]
async fn a_peer_that_does_not_know_how_is_asked_over_http1() {
    let app = App::new(Vec::new());
    let pair = secured(&app).await;
    change_chain(&pair.store, "inbound-http", |chain| {
        let mut tls = ServerTls::clone(chain.tls.as_ref().unwrap());
        tls.require_client_certificate = false;
        chain.tls = Some(Arc::new(tls));
    })
    .await;
    forget_connections(&pair).await;
    settle(&pair).await;
    assert!(opened_for(&pair, &app, 20).await >= 19);
}

#[tokio::test]
async fn requests_to_an_endpoint_that_is_gone_fail_together() {
    let app = App::new(Vec::new());
    let pair = secured(&app).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    change_cluster(&pair.store, "inbound", |cluster| {
        cluster.connect_timeout = Duration::from_millis(300);
        if let Discovery::Static(endpoints) = &mut cluster.discovery {
            let mut moved = Endpoints::clone(endpoints);
            moved.endpoints[0].address = address;
            *endpoints = Arc::new(moved);
        }
    })
    .await;
    let began = Instant::now();
    let clients = (0..BURST / 10).map(async |_| {
        let mut client = Wire::connect(pair.http).await;
        client.send(POST).await;
        let head = client.head().await;
        assert!(head.contains("x-weir-reason: connect_timeout"), "{head}");
    });
    join_all(clients).await;
    // One after the other they would take 15 s.
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn what_is_told_to_be_http1_stays_so() {
    let limited = |cluster: &mut Cluster| cluster.limits.connections = Some(1024);
    let spent = |cluster: &mut Cluster| cluster.limits.requests_per_connection = Some(1024);
    let explicit = |cluster: &mut Cluster| cluster.protocol = AppProtocol::Http1;
    for change in [limited, spent, explicit] {
        let app = App::new(Vec::new());
        let pair = secured(&app).await;
        change_cluster(&pair.store, "inbound", change).await;
        settle(&pair).await;
        assert!(opened_for(&pair, &app, 20).await >= 19);
    }
}

/// Connections opened for so many requests at a time.
async fn opened_for(pair: &Pair, app: &App, requests: usize) -> u64 {
    let before = handshakes(pair);
    let mut clients = Vec::new();
    for _ in 0..requests {
        let mut client = Wire::connect(pair.http).await;
        client.send(HOLD).await;
        clients.push(client);
    }
    app.until_held(requests).await;
    handshakes(pair) - before
}

/// Has all later requests go over connections made after this.
async fn forget_connections(pair: &Pair) {
    change_cluster(&pair.store, "inbound", |cluster| {
        cluster.connect_timeout += Duration::from_secs(1)
    })
    .await;
}

#[tokio::test]
async fn a_mark_that_no_sidecar_made_has_no_effect() {
    let mut pair = Pair::start().await;
    let application = pair.take_application();
    let request = || {
        let request = http::Request::post("http://app/p").header("x-weir-http1", "chunked");
        request.body(String::from("body")).unwrap()
    };
    for (secured, address) in [(false, pair.inbound), (false, pair.http), (true, pair.http)] {
        if secured {
            certify(&pair.store);
            secure(&pair.store, "inbound-http", "inbound", ME).await;
        }
        let got = soon(async {
            loop {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let io = hyper_util::rt::TokioIo::new(stream);
                let executor = hyper_util::rt::TokioExecutor::new();
                let begun = hyper::client::conn::http2::handshake(executor, io).await;
                let (mut sender, connection) = begun.unwrap();
                tokio::spawn(connection);
                let asked = tokio::spawn(async move { sender.send_request(request()).await });
                // While only one side is secured, no request reaches the application.
                tokio::select! {
                    accepted = application.accept() => return first_request(accepted.unwrap().0).await,
                    answered = asked => drop(answered),
                }
            }
        })
        .await;
        assert_eq!(got.version(), http::Version::HTTP_2, "secured: {secured}");
        assert!(!got.headers().contains_key("x-weir-http1"), "secured: {secured}");
    }
}

async fn first_request(stream: tokio::net::TcpStream) -> http::Request<h2::RecvStream> {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, _) = connection.accept().await.unwrap().unwrap();
    request
}
