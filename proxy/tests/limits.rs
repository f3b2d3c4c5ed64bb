//! What a stranger may take of an inbound sidecar.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::time::{Duration, Instant};

use pair::{Pair, Wire, soon};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let pair = Pair::start_with(&["--header-timeout-s", "1"]).await;
    for begun in ["", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: a"] {
        let began = Instant::now();
        let mut client = Wire::connect(pair.inbound).await;
        client.send(begun).await;
        assert!(!client.rest().await.contains("200"), "{begun:?}");
        assert!(began.elapsed() > Duration::from_millis(900), "{begun:?}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let pair = Pair::start_with(&["--header-timeout-s", "1"]).await;
    let mut client = Wire::connect(pair.inbound).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 204"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_reset_until_there_is_room() {
    let pair = Pair::start_with(&["--max-inbound-connections", "2"]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Wire::connect(pair.inbound).await;
        client.send(GET).await;
        let mut app = pair.accept().await;
        app.head().await;
        held.push((client, app));
    }
    let third = async |pair: &Pair| {
        let mut client = Wire::connect(pair.inbound).await;
        let _reset = tokio::io::AsyncWriteExt::write_all(&mut client.stream, GET.as_bytes()).await;
        let mut byte = [0];
        tokio::select! {
            read = tokio::io::AsyncReadExt::read(&mut client.stream, &mut byte) => {
                assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
                false
            }
            _ = pair.accept() => true,
        }
    };
    assert!(!third(&pair).await);
    let metrics = pair.telemetry.render();
    assert!(
        metrics.contains(r#"weir_denied_total{direction="inbound",reason="overflow"} 1"#),
        "{metrics}"
    );
    held.pop();
    soon(async { while !third(&pair).await {} }).await;
}
