//! Between sidecars identities are proved, rules are kept, and changes reach what is already open.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::sync::Arc;

use pair::{Pair, Wire, soon};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::AsyncReadExt;
use weir_proxy::{
    model::Discovery,
    model::{
        Action, Certificate, Cluster, Endpoints, FilterChain, Http, Listener, Network, Permission, Policy,
        Principal, Rbac, Secret, ServerTls, StringMatcher, Terminal, TlsVersion, TrustBundle, UpstreamTls,
    },
    xds::{State, Store},
};

const ME: &str = "spiffe://cluster.local/ns/shop/sa/buyer";
const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

/// Gives the process one identity, under a root of its own.
fn certify(store: &Store) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(ME.try_into().unwrap())];
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let certificate = Certificate {
        chain: vec![leaf.der().clone()],
        key: Arc::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()),
    };
    let roots = TrustBundle {
        roots: vec![root_certificate.der().clone()],
        subject_alt_names: Vec::new(),
    };
    store.publish(
        "workload-cert",
        State::Ready(Arc::new(Secret::Certificate(certificate))),
    );
    store.publish("trust-bundle", State::Ready(Arc::new(Secret::TrustBundle(roots))));
}

async fn change_chain(store: &Store, listener: &str, change: impl Fn(&mut FilterChain)) {
    let mut changed = Listener::clone(&soon(store.watch::<Listener>(listener).answered()).await.unwrap());
    for chain in &mut changed.chains {
        change(Arc::make_mut(chain));
    }
    store.publish(listener, State::Ready(Arc::new(changed)));
}

async fn change_cluster(store: &Store, cluster: &str, change: impl Fn(&mut Cluster)) {
    let mut changed = Cluster::clone(&soon(store.watch::<Cluster>(cluster).answered()).await.unwrap());
    change(&mut changed);
    store.publish(cluster, State::Ready(Arc::new(changed)));
}

/// Puts mutual TLS between the two sidecars, whose endpoint must prove to be `expected`.
async fn secure(store: &Store, listener: &str, cluster: &str, expected: &str) {
    change_chain(store, listener, |chain| {
        chain.tls = Some(Arc::new(ServerTls {
            certificate: "workload-cert".to_owned(),
            trust_bundle: Some("trust-bundle".to_owned()),
            inline_trust: None,
            subject_alt_names: Vec::new(),
            require_client_certificate: true,
            alpn: vec!["osm".to_owned()],
            min_version: TlsVersion::V1_3,
            max_version: TlsVersion::V1_3,
        }));
    })
    .await;
    change_cluster(store, cluster, |cluster| {
        cluster.tls = Some(Arc::new(UpstreamTls {
            sni: "app.shop".to_owned(),
            alpn: vec!["osm".to_owned()],
            certificate: Some("workload-cert".to_owned()),
            trust_bundle: Some("trust-bundle".to_owned()),
            inline_trust: None,
            subject_alt_names: vec![StringMatcher::Exact("spiffe://never/used".to_owned())],
            min_version: TlsVersion::V1_3,
            max_version: TlsVersion::V1_3,
        }));
        if let Discovery::Static(endpoints) = &mut cluster.discovery {
            let mut pinned = Endpoints::clone(endpoints);
            for endpoint in &mut pinned.endpoints {
                endpoint.principal = Some(expected.into());
            }
            *endpoints = Arc::new(pinned);
        }
    })
    .await;
}

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
    let placeholder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    placeholder.set_nonblocking(true).unwrap();
    let placeholder = tokio::net::TcpListener::from_std(placeholder).unwrap();
    let application = std::mem::replace(&mut pair.application, placeholder);
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
    change_chain(
        &pair.store,
        "inbound-http",
        rules(allow("spiffe://cluster.local/ns/shop/sa/thief")),
    )
    .await;
    let head = until_answered(&pair, "http/1.1 403").await;
    assert!(head.contains("x-weir-reason: rbac_request"), "{head}");
    change_chain(&pair.store, "inbound-http", rules(allow(ME))).await;
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
    change_chain(&pair.store, "inbound-tcp", network(ME)).await;
    certify(&pair.store);
    app.send("still").await;
    client.until("still").await;

    change_chain(
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

    change_chain(&pair.store, "inbound-http", |chain| {
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
