//! A shutdown ends nothing that runs.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::time::Duration;

use pair::{Pair, Wire, soon};
use weir_proxy::drain::Stage;

#[tokio::test]
async fn running_requests_finish_and_late_clients_are_served_once() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.inbound).await;
    client.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await;
    let mut app = pair.accept().await;
    app.head().await;

    let drain = pair.drain.clone();
    let draining = tokio::spawn(async move { drain.run(Duration::from_secs(5)).await });
    let mut kept = Wire::connect(pair.inbound).await;
    soon(async {
        while pair.drain.stage() != Stage::Draining {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for late in [&mut kept, &mut Wire::connect(pair.inbound).await] {
        late.send("GET /late HTTP/1.1\r\nhost: app\r\n\r\n").await;
        let mut app = pair.accept().await;
        app.head().await;
        app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        let head = late.head().await;
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(late.rest().await, "");
    }
    let mut outbound = Wire::connect(pair.tcp).await;
    outbound.send("still here").await;
    drop(outbound);

    app.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let head = client.head().await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(client.rest().await, "hi");
    soon(draining).await.unwrap();
}
