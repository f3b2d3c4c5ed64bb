//! Who is carried, and how many connections that takes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::net::{TcpListener, TcpStream};

use weir_proxy::model::{AppProtocol, Cluster, Discovery, Endpoints, ServerTls};

use super::{
    app::{App, HOLD, POST, handshakes, secured, settle},
    pair::{
        Pair, Wire, change,
        secure::{ME, certify, secure},
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
    change::chains(&pair.store, "inbound-http", |chain| {
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
    change::cluster(&pair.store, "inbound", |cluster| {
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
        change::cluster(&pair.store, "inbound", change).await;
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
    change::cluster(&pair.store, "inbound", |cluster| {
        cluster.connect_timeout += Duration::from_secs(1)
    })
    .await;
}

#[tokio::test]
async fn a_mark_that_no_sidecar_made_has_no_effect() {
    let mut pair = Pair::start().await;
    let application = pair.take_application();
    for (secured, address) in [(false, pair.inbound), (false, pair.http), (true, pair.http)] {
        if secured {
            certify(&pair.store);
            secure(&pair.store, "inbound-http", "inbound", ME).await;
        }
        let got = soon(async {
            loop {
                let asked = tokio::spawn(ask_marked(address));
                // While only one side is secured, no request reaches the application.
                tokio::select! {
                    accepted = application.accept() => return first_request(accepted.unwrap().0).await,
                    _ = asked => {}
                }
            }
        })
        .await;
        assert_eq!(got.version(), http::Version::HTTP_2, "secured: {secured}");
        assert!(!got.headers().contains_key("x-weir-http1"), "secured: {secured}");
    }
}

/// Asks as one sidecar asks another.
async fn ask_marked(address: SocketAddr) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/p")
        .version(http::Version::HTTP_11)
        .header("host", "app")
        .header("x-weir-http1", "1")
        .body(())
        .unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let _ = response.await;
}

async fn first_request(stream: TcpStream) -> http::Request<h2::RecvStream> {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, _) = connection.accept().await.unwrap().unwrap();
    request
}
