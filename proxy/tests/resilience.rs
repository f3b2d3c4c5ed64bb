//! What routes and clusters say about trouble has its effect: retries, limits, timeouts.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::{sync::Arc, time::Duration};

use pair::{Pair, Wire, change, soon};
use weir_proxy::{
    bucket::Settings,
    model::{Limits, Network, OutlierDetection, Retry, RetryOn},
};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn retry(on: RetryOn) -> Retry {
    Retry {
        on: vec![on],
        num_retries: 2,
        per_try_timeout: None,
        status_codes: Vec::new(),
        base_interval: Duration::from_millis(1),
        max_interval: Duration::from_millis(1),
    }
}

#[tokio::test]
async fn a_failed_request_is_sent_again_with_its_body() {
    let pair = Pair::start().await;
    change::destinations(&pair.store, "inbound-http", |destination| {
        destination.retry = Some(retry(RetryOn::ServerError));
    })
    .await;
    let post = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nbody";
    let server = async {
        let mut tries = 0;
        let mut app = pair.accept().await;
        loop {
            app.until("\r\n\r\nbody").await;
            tries += 1;
            match tries {
                1 => app.send("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await,
                // The second try meets a connection that breaks.
                2 => {
                    drop(app);
                    app = pair.accept().await;
                }
                _ => return app.send(NO_CONTENT).await,
            }
        }
    };
    let client = async {
        let mut client = Wire::connect(pair.inbound).await;
        client.send(post).await;
        client.head().await
    };
    let ((), head) = tokio::join!(server, client);
    assert!(head.starts_with("http/1.1 204"), "{head}");
}

#[tokio::test]
async fn the_last_answer_is_given_when_the_tries_are_used_up() {
    let pair = Pair::start().await;
    change::destinations(&pair.store, "inbound-http", |destination| {
        destination.retry = Some(retry(RetryOn::GatewayError));
    })
    .await;
    let mut client = Wire::connect(pair.inbound).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    for n in 1..=3 {
        app.head().await;
        app.send(format!(
            "HTTP/1.1 503 Busy\r\nx-try: {n}\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
    }
    assert!(client.head().await.contains("x-try: 3"));
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up() {
    let pair = Pair::start().await;
    change::destinations(&pair.store, "inbound-http", |destination| {
        destination.retry = Some(Retry {
            per_try_timeout: Some(Duration::from_millis(50)),
            ..retry(RetryOn::Reset)
        });
    })
    .await;
    let mut client = Wire::connect(pair.inbound).await;
    client.send(GET).await;
    let mut silent = pair.accept().await;
    silent.head().await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send(NO_CONTENT).await;
    assert!(client.head().await.starts_with("http/1.1 204"));
}

#[tokio::test]
async fn a_stream_idle_for_too_long_is_ended() {
    let pair = Pair::start().await;
    change::destinations(&pair.store, "inbound-http", |destination| {
        destination.idle_timeout = Some(Duration::from_millis(50));
    })
    .await;
    let mut client = Wire::connect(pair.inbound).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 504") && head.contains("x-weir-reason: idle_timeout"),
        "{head}"
    );
    client.until("idle timeout").await;

    let mut client = Wire::connect(pair.inbound).await;
    client.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart").await;
    assert!(client.rest().await.ends_with("part"));
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_answered_overflow() {
    let pair = Pair::start().await;
    change::cluster(&pair.store, "application", |cluster| {
        cluster.limits = Limits {
            requests: Some(1),
            ..Limits::default()
        };
    })
    .await;
    let mut first = Wire::connect(pair.inbound).await;
    first.send(GET).await;
    let mut app = pair.accept().await;
    app.head().await;
    let mut second = Wire::connect(pair.inbound).await;
    second.send(GET).await;
    let head = second.head().await;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("x-weir-reason: overflow"),
        "{head}"
    );
    app.send(NO_CONTENT).await;
    assert!(first.head().await.starts_with("http/1.1 204"));
}

#[tokio::test]
async fn connections_beyond_the_rate_are_closed() {
    let pair = Pair::start().await;
    change::chains(&pair.store, "inbound-tcp", |chain| {
        chain.network = vec![Network::LocalRateLimit(Settings {
            max_tokens: 2,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(3600),
        })];
    })
    .await;
    for _ in 0..2 {
        let mut client = Wire::connect(pair.tcp).await;
        let mut app = pair.accept().await;
        app.send("hello\n").await;
        client.until("hello\n").await;
    }
    let mut third = Wire::connect(pair.tcp).await;
    let read = soon(tokio::io::AsyncReadExt::read(&mut third.stream, &mut [0])).await;
    assert!(read.is_err() || read.is_ok_and(|length| length == 0));
    let counted = "weir_denied_total{direction=\"inbound\",reason=\"rate_limited\"} 1";
    assert!(pair.telemetry.render().contains(counted));
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out() {
    let pair = Pair::start().await;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = other.local_addr().unwrap();
    change::cluster(&pair.store, "application", |cluster| {
        let weir_proxy::model::Discovery::Static(endpoints) = &cluster.discovery else {
            panic!("the pair's clusters are static");
        };
        let mut endpoints = weir_proxy::model::Endpoints::clone(endpoints);
        let mut second = endpoints.endpoints[0].clone();
        second.address = good;
        endpoints.endpoints.push(second);
        cluster.discovery = weir_proxy::model::Discovery::Static(Arc::new(endpoints));
        cluster.outlier_detection = Some(OutlierDetection {
            consecutive_5xx: 2,
            base_ejection_time: Duration::from_secs(3600),
            max_ejection_time: Duration::from_secs(3600),
            max_ejection_percent: 50,
        });
    })
    .await;
    let serve = |listener: tokio::net::TcpListener, answer: &'static str| {
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut app = Wire::new(stream);
                    loop {
                        app.head().await;
                        app.send(answer).await;
                    }
                });
            }
        })
    };
    let mut client = Wire::connect(pair.inbound).await;
    serve(other, NO_CONTENT);
    serve(
        pair.application,
        "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n",
    );
    let mut good_in_a_row = 0;
    while good_in_a_row < 50 {
        client.send(GET).await;
        let good = client.head().await.starts_with("http/1.1 204");
        good_in_a_row = if good { good_in_a_row + 1 } else { 0 };
    }
}
