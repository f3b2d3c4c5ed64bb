//! What is carried is subject to the same rules, and meets the same trouble.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::yield_now;
use weir_proxy::model::{Action, Http, Rbac, Retry, RetryOn, Terminal};

use super::{
    app::{App, END, GET, HELD, HOLD, POST, answer, case, handshakes, hold, secured},
    pair::{Wire, change, soon},
};

#[tokio::test]
async fn requests_under_load_survive_a_drain() {
    let app = App::new(Vec::new());
    let pair = secured(&app).await;
    let mut held = hold(&pair, &app).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (stop, address) = (stop.clone(), pair.http);
            tokio::spawn(async move {
                let mut asked = 0;
                let mut client = Wire::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    client.send(POST).await;
                    let head = client.head().await;
                    assert!(head.starts_with("http/1.1 204"), "{head}");
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let before = handshakes(&pair);
    pair.drain.begin();
    // New connections come once the kept ones have ended.
    soon(async {
        while handshakes(&pair) < before + 20 {
            yield_now().await
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        assert!(soon(asking).await.unwrap() > 0);
    }
    app.release.add_permits(HELD);
    for client in &mut held {
        assert!(client.head().await.starts_with("http/1.1 204"));
    }
}

#[tokio::test]
async fn a_revoked_policy_ends_what_is_carried() {
    let app = App::new(vec![case(
        "part",
        (GET, END),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart", ""),
    )]);
    let pair = secured(&app).await;
    let mut held = hold(&pair, &app).await;
    let before = handshakes(&pair);
    let mut client = Wire::connect(pair.http).await;
    client.send(&app.cases[0].request).await;
    client.until("part").await;
    assert_eq!(handshakes(&pair), before);
    change::chains(&pair.store, "inbound-http", |chain| {
        if let Terminal::Http(http) = &mut chain.terminal {
            *http = Arc::new(Http {
                rbac: Some(Some(Arc::new(Rbac {
                    action: Action::Allow,
                    policies: Vec::new(),
                }))),
                ..Http::clone(http)
            });
        }
    })
    .await;
    assert_eq!(client.rest().await, "");
    for client in &mut held {
        let head = soon(client.next_head()).await.unwrap_or_default();
        assert!(!head.contains(" 204 "), "{head}");
    }
    let mut client = Wire::connect(pair.http).await;
    client.send(GET).await;
    let head = client.head().await;
    assert!(head.contains("x-weir-reason: rbac_request"), "{head}");
}

#[tokio::test]
async fn a_carried_request_has_its_retries_and_its_timeouts() {
    let app = App::new(vec![case(
        "busy",
        (
            "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nbody",
            "body",
        ),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", END),
    )]);
    let pair = secured(&app).await;
    let _held = hold(&pair, &app).await;
    let before = handshakes(&pair);
    change::destinations(&pair.store, "outbound-http", |destination| {
        destination.retry = Some(Retry {
            on: vec![RetryOn::ServerError],
            num_retries: 2,
            per_try_timeout: Some(Duration::from_millis(100)),
            status_codes: Vec::new(),
            base_interval: Duration::from_millis(1),
            max_interval: Duration::from_millis(1),
        });
    })
    .await;
    soon(async {
        loop {
            let played = app.played.load(Ordering::Relaxed);
            let answered = answer(&pair, &app.cases[0]).await;
            assert!(answered.starts_with(b"HTTP/1.1 503 Busy"));
            if app.played.load(Ordering::Relaxed) == played + 3 {
                return;
            }
        }
    })
    .await;
    let held = *app.held.borrow();
    let mut client = Wire::connect(pair.http).await;
    client.send(HOLD).await;
    let head = client.head().await;
    assert!(head.contains("x-weir-reason: request_timeout"), "{head}");
    assert_eq!(handshakes(&pair), before);
    assert_eq!(*app.held.borrow(), held + 3);
}

#[tokio::test]
async fn an_upgrade_has_a_connection_of_its_own() {
    let app = App::new(vec![case(
        "switch",
        (
            "GET /chat HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
            END,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly",
            "early",
        ),
    )]);
    let pair = secured(&app).await;
    let _held = hold(&pair, &app).await;
    let before = handshakes(&pair);
    let answered = answer(&pair, &app.cases[0]).await;
    assert!(answered.starts_with(b"HTTP/1.1 101") && answered.ends_with(b"early"));
    assert_eq!(handshakes(&pair), before + 1);
}
