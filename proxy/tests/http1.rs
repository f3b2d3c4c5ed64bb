//! HTTP/1.1 goes through a pair of sidecars as it came.

mod pair;

use pair::{Pair, Wire};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

#[tokio::test]
async fn keep_alive_uses_one_connection_to_the_application() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    for round in 0..3 {
        if round > 0 {
            client.send(GET).await;
        }
        let head = app.head().await;
        assert!(
            head.starts_with("get / http/1.1\r\n") && head.contains("host: app"),
            "{head}"
        );
        app.send("HTTP/1.1 200 OK\r\nserver: mine\r\ncontent-length: 2\r\n\r\nhi")
            .await;
        let head = client.head().await;
        assert!(
            head.contains("server: mine") && head.contains("content-length: 2"),
            "{head}"
        );
        client.until("hi").await;
    }
}

#[tokio::test]
async fn chunked_bodies_stream_both_ways() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client
        .send("POST /up HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await;
    let mut app = pair.accept().await;
    app.until("first\r\n").await;
    app.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    client.until("one\r\n").await;
    client.send("6\r\nsecond\r\n").await;
    app.until("second\r\n").await;
    app.send("3\r\ntwo\r\n").await;
    client.until("two\r\n").await;
    client.send("0\r\n\r\n").await;
    app.until("0\r\n\r\n").await;
    app.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_get_keeps_its_chunked_body() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client
        .send(
            "GET /search HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n",
        )
        .await;
    let mut app = pair.accept().await;
    assert!(app.head().await.contains("transfer-encoding: chunked"));
    app.until("query\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn head_keeps_the_length_and_has_no_body() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client.send("HEAD / HTTP/1.1\r\nhost: app\r\n\r\n").await;
    let mut app = pair.accept().await;
    assert!(app.head().await.starts_with("head / "));
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n").await;
    assert!(client.head().await.contains("content-length: 1234"));
    client.send(GET).await;
    assert!(app.head().await.starts_with("get / "));
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_continue() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client
        .send("PUT / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("http/1.1 100"));
    client.send("body").await;
    let mut app = pair.accept().await;
    app.until("body").await;
    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 204"));
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client
        .send("GET /chat HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n")
        .await;
    let mut app = pair.accept().await;
    let head = app.head().await;
    assert!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "{head}"
    );
    app.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly")
        .await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"),
        "{head}"
    );
    client.until("early").await;
    client.send("ping").await;
    app.until("ping").await;
    app.send("pong").await;
    client.until("pong").await;
}

#[tokio::test]
async fn an_upgrade_that_is_not_let_through_is_refused() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client
        .send("GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: smtp\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 403") && head.contains("x-weir-reason: upgrade_refused"),
        "{head}"
    );
}

#[tokio::test]
async fn large_headers_go_through_and_larger_ones_are_answered_431() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    let request = |length: usize| {
        format!(
            "GET / HTTP/1.1\r\nhost: app\r\nx-large: {}\r\n\r\n",
            "x".repeat(length)
        )
    };
    client.send(request(64 * 1024)).await;
    let mut app = pair.accept().await;
    assert!(app.head().await.len() > 64 * 1024);
    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 204"));
    let many: String = (0..200).map(|n| format!("x-{n}: {n}\r\n")).collect();
    client
        .send(format!("GET / HTTP/1.1\r\nhost: app\r\n{many}\r\n"))
        .await;
    assert!(app.head().await.contains("x-199: 199"));
    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 204"));

    let mut client = Wire::connect(pair.http).await;
    client.send(request(72 * 1024)).await;
    assert!(client.head().await.starts_with("http/1.1 431"));
}

#[tokio::test]
async fn a_pooled_connection_found_closed_is_replaced() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    client.until("hi").await;
    drop(app);
    client.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain")
        .await;
    client.until("again").await;
}

#[tokio::test]
async fn no_connection_is_answered_503_with_its_reason() {
    let pair = Pair::start().await;
    let (inbound, application) = (pair.inbound, pair.application);
    drop(application);
    let mut client = Wire::connect(inbound).await;
    client.send(GET).await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("x-weir-reason: connect_failed"),
        "{head}"
    );
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_connection() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.http).await;
    client
        .send("GET / HTTP/1.1\r\nhost: app\r\nconnection: keep-alive, x-mine\r\nkeep-alive: 5\r\nx-mine: 1\r\nx-forwarded-for: 1.2.3.4\r\n\r\n")
        .await;
    let mut app = pair.accept().await;
    let head = app.head().await;
    assert!(!head.contains("x-mine") && !head.contains("keep-alive"), "{head}");
    assert!(head.contains("x-forwarded-for: 1.2.3.4\r\n"), "{head}");
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_its_reason() {
    let pair = Pair::start().await;
    for (asked, status, said) in [
        ("GET / HTTP/1.1\r\nno field\r\n\r\n", "400", "invalid header name"),
        (
            "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "400",
            "content-length beside transfer-encoding",
        ),
        ("GET / HTTP/3.0\r\n\r\n", "505", "another version"),
    ] {
        let mut client = Wire::connect(pair.http).await;
        client.send(asked).await;
        let answer = client.rest().await.to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
        assert!(
            answer.contains("x-weir-reason: bad_request\r\n") && answer.contains(said),
            "{answer}"
        );
    }
    let metrics = pair.telemetry.render();
    assert!(
        metrics.contains(r#"code_class="4xx",reason="bad_request"} 2"#),
        "{metrics}"
    );
}
