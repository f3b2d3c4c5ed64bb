//! Between sidecars identities are proved, rules are kept, and changes reach what is already open.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::sync::Arc;

use pair::{
    Pair, Wire, change,
    secure::{ME, certify, secure},
    soon,
};
use tokio::io::AsyncReadExt;
use weir_proxy::model::{
    Action, FilterChain, Http, Network, Permission, Policy, Principal, Rbac, StringMatcher, Terminal,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

fn allow(principal: &str) -> Arc<Rbac> {
    let principal = StringMatcher::Exact(principal.to_owned());
    Arc::new(Rbac {
        action: Action::Allow,
        policies: vec![Policy {
            name: "shop/buy".to_owned(),
            permissions: vec![Permission::Any(true)],
            principals: vec![Principal::Authenticated(Some(principal))],
        }],
    })
}

/// Asks until the answer begins so; configuration spreads, it is not awaited.
async fn until_answered(pair: &Pair, status: &str) -> String {
    soon(async {
        loop {
            let mut client = Wire::connect(pair.http).await;
            client.send(GET).await;
            let head = client.head().await;
            if head.starts_with(status) {
                return head;
            }
        }
    })
    .await
}

fn answer_everything(pair: &mut Pair) {
    let application = pair.take_application();
    tokio::spawn(async move {
        while let Ok((stream, _)) = application.accept().await {
            tokio::spawn(async move {
                let mut app = Wire::new(stream);
                loop {
                    app.head().await;
                    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
                }
            });
        }
    });
}

#[tokio::test]
async fn requests_are_judged_by_the_identity_that_the_client_proves() {
    let mut pair = Pair::start().await;
    answer_everything(&mut pair);
    certify(&pair.store);
    secure(&pair.store, "inbound-http", "inbound", ME).await;
    until_answered(&pair, "http/1.1 204").await;

    let rules = |rbac: Arc<Rbac>| {
        move |chain: &mut FilterChain| {
            if let Terminal::Http(http) = &mut chain.terminal {
                *http = Arc::new(Http {
                    rbac: Some(Some(rbac.clone())),
                    ..Http::clone(http)
                });
            }
        }
    };
    change::chains(
        &pair.store,
        "inbound-http",
        rules(allow("spiffe://cluster.local/ns/shop/sa/thief")),
    )
    .await;
    let head = until_answered(&pair, "http/1.1 403").await;
    assert!(head.contains("x-weir-reason: rbac_request"), "{head}");
    // The sidecars' connection stays: it would be made anew for each request, and requests would get lost.
    for _ in 0..50 {
        let mut client = Wire::connect(pair.http).await;
        client.send(GET).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 403"), "{head}");
    }
    change::chains(&pair.store, "inbound-http", rules(allow(ME))).await;
    until_answered(&pair, "http/1.1 204").await;
}

#[tokio::test]
async fn an_endpoint_that_proves_to_be_another_gets_nothing() {
    let mut pair = Pair::start().await;
    answer_everything(&mut pair);
    certify(&pair.store);
    secure(
        &pair.store,
        "inbound-http",
        "inbound",
        "spiffe://cluster.local/ns/shop/sa/other",
    )
    .await;
    let head = until_answered(&pair, "http/1.1 503").await;
    assert!(head.contains("x-weir-reason: upstream_tls"), "{head}");
}

#[tokio::test]
async fn an_open_connection_ends_when_its_policy_goes_but_not_when_it_stays() {
    let pair = Pair::start().await;
    certify(&pair.store);
    secure(&pair.store, "inbound-tcp", "inbound-tcp", ME).await;
    let (mut client, mut app) = soon(async {
        loop {
            let mut client = Wire::connect(pair.tcp).await;
            client.send("hello").await;
            // While only one side has changed, the connection ends before it reaches the application.
            let mut app = tokio::select! {
                app = pair.accept() => app,
                _ = client.stream.readable() => continue,
            };
            let mut got = [0; 5];
            if app.stream.read_exact(&mut got).await.is_ok() && got == *b"hello" {
                return (client, app);
            }
        }
    })
    .await;

    let network = |principal: &str| {
        let rbac = allow(principal);
        move |chain: &mut FilterChain| chain.network = vec![Network::Rbac(Some(rbac.clone()))]
    };
    change::chains(&pair.store, "inbound-tcp", network(ME)).await;
    certify(&pair.store);
    app.send("still").await;
    client.until("still").await;

    change::chains(
        &pair.store,
        "inbound-tcp",
        network("spiffe://cluster.local/ns/shop/sa/thief"),
    )
    .await;
    let mut byte = [0];
    let ended = soon(client.stream.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn an_upgraded_connection_ends_when_its_policy_goes() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.inbound).await;
    client
        .send("GET /chat HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("http/1.1 101"));
    app.send("open").await;
    client.until("open").await;

    change::chains(&pair.store, "inbound-http", |chain| {
        if let Terminal::Http(http) = &mut chain.terminal {
            *http = Arc::new(Http {
                rbac: Some(Some(allow(ME))),
                ..Http::clone(http)
            });
        }
    })
    .await;
    let mut byte = [0];
    let ended = soon(client.stream.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_kept_connection_and_its_stream_end_when_the_policy_goes_but_not_when_it_stays() {
    let mut pair = Pair::start().await;
    let application = pair.take_application();
    certify(&pair.store);
    secure(&pair.store, "inbound-http", "inbound", ME).await;
    let rules = |principal: &str| {
        let rbac = allow(principal);
        move |chain: &mut FilterChain| {
            if let Terminal::Http(http) = &mut chain.terminal {
                *http = Arc::new(Http {
                    rbac: Some(Some(rbac.clone())),
                    ..Http::clone(http)
                });
            }
        }
    };
    change::chains(&pair.store, "inbound-http", rules(ME)).await;
    let (mut client, mut app) = soon(async {
        loop {
            let mut client = Wire::connect(pair.http).await;
            client.send(GET).await;
            tokio::select! {
                accepted = application.accept() => return (client, Wire::new(accepted.unwrap().0)),
                _ = client.stream.readable() => {}
            }
        }
    })
    .await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n")
        .await;
    client.until("part").await;

    change::chains(&pair.store, "inbound-http", |chain| {
        rules(ME)(chain);
        chain.name.push('2');
    })
    .await;
    app.send("5\r\nstill\r\n").await;
    client.until("still").await;

    change::chains(
        &pair.store,
        "inbound-http",
        rules("spiffe://cluster.local/ns/shop/sa/thief"),
    )
    .await;
    let mut byte = [0];
    let ended = soon(client.stream.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let head = until_answered(&pair, "http/1.1 403").await;
    assert!(head.contains("x-weir-reason: rbac_request"), "{head}");
}
