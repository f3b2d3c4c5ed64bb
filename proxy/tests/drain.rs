//! A shutdown ends nothing that runs.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::time::Duration;

use pair::{Pair, Wire, soon};
use tokio::net::TcpStream;

#[tokio::test]
async fn running_requests_finish_and_inbound_takes_no_new_connections() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.inbound).await;
    client.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await;
    let mut app = pair.accept().await;
    app.head().await;

    let drain = pair.drain.clone();
    let draining = tokio::spawn(async move { drain.run(Duration::from_secs(5)).await });
    soon(async {
        while TcpStream::connect(pair.inbound).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut outbound = Wire::connect(pair.tcp).await;
    outbound.send("still here").await;
    drop(outbound);

    app.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let head = client.head().await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(client.rest().await, "hi");
    soon(draining).await.unwrap();
}
