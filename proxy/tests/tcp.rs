//! Opaque connections go through a pair of sidecars as they are.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::time::Instant;

use pair::{Pair, Wire, soon};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_half_closed_connection_still_answers() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.tcp).await;
    client.send("question").await;
    soon(client.stream.shutdown()).await.unwrap();
    let mut app = pair.accept().await;
    assert_eq!(app.rest().await, "question");
    app.send("answer").await;
    drop(app);
    assert_eq!(client.rest().await, "answer");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once_where_tcp_is_declared() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.tcp).await;
    let mut app = pair.accept().await;
    app.send("220 welcome\r\n").await;
    assert_eq!(client.until("\r\n").await, "220 welcome\r\n");
}

#[tokio::test]
async fn a_silent_client_on_an_undeclared_port_waits_for_the_detect_timeout_only() {
    let pair = Pair::start().await;
    let start = Instant::now();
    let mut client = Wire::connect(pair.undeclared).await;
    let mut app = pair.accept().await;
    app.send("hello\n").await;
    client.until("hello\n").await;
    assert!(start.elapsed().as_millis() >= 150);
}

#[tokio::test]
async fn undeclared_http_is_http_and_the_rest_is_not() {
    let pair = Pair::start().await;
    let mut http = Wire::connect(pair.undeclared).await;
    http.send("GET / HTTP/1.1\r\nhost: app\r\nconnection: keep-alive\r\n\r\n")
        .await;
    let mut app = pair.accept().await;
    assert!(
        !app.head().await.contains("connection"),
        "the sidecars keep this header to themselves"
    );
    let mut opaque = Wire::connect(pair.undeclared).await;
    opaque.send("*1\r\n$4\r\nPING\r\n").await;
    let mut app = pair.accept().await;
    app.until("PING\r\n").await;
}

#[tokio::test]
async fn a_large_transfer_arrives_whole() {
    const LENGTH: usize = 8 << 20;
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.tcp).await;
    let mut app = pair.accept().await;
    let sending = tokio::spawn(async move {
        client.send(vec![b'x'; LENGTH]).await;
        client.stream.shutdown().await.unwrap();
        client
    });
    assert_eq!(app.rest().await.len(), LENGTH);
    soon(sending).await.unwrap();
}
