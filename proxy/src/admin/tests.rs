//! Every page over real connections.

mod access;
mod as_envoy;
mod probes;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, layer::SubscriberExt as _, reload};
use weir_xds::{envoy::config::cluster::v3::Cluster as ClusterMessage, pack};

use super::*;
use crate::{
    model::{Listener, Secret, TrustBundle},
    xds::{Source, State, Store},
};

const LIMIT: Duration = Duration::from_secs(10);

/// What the fake proxy was asked, and what it says.
#[derive(Default)]
struct Fake {
    waiting: Mutex<Vec<String>>,
    own: Mutex<Vec<SocketAddr>>,
    drains: AtomicUsize,
    stops: AtomicUsize,
}

struct Served {
    fake: Arc<Fake>,
    admin: SocketAddr,
    stats: SocketAddr,
    health: SocketAddr,
    store: Store,
    _subscriber: Box<dyn std::any::Any>,
}

fn chain() -> Chain {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["bookstore.shop.cluster.local".to_owned()]).unwrap();
    let uri = "spiffe://cluster.local/ns/shop/sa/bookstore".try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    params.not_before = rcgen::date_time_ymd(2020, 1, 2);
    params.not_after = rcgen::date_time_ymd(2090, 3, 4);
    Chain {
        name: "workload-cert".to_owned(),
        roots: false,
        certificates: vec![params.self_signed(&key).unwrap().der().clone()],
    }
}

fn clusters() -> Vec<ClusterView> {
    let endpoint = EndpointView {
        address: "10.1.2.3:8080".parse().unwrap(),
        principal: Some("spiffe://cluster.local/ns/shop/sa/bookstore".to_owned()),
        tls: true,
        weight: 3,
        in_flight: 7,
        pod: Some(("shop".to_owned(), "bookstore-1".to_owned())),
    };
    let ready = ClusterView {
        name: "shop/bookstore|80".to_owned(),
        added_via_api: true,
        trouble: None,
        endpoints: vec![endpoint],
    };
    let pending = ClusterView {
        name: "shop/other|80".to_owned(),
        added_via_api: true,
        trouble: Some("pending"),
        endpoints: Vec::new(),
    };
    vec![ready, pending]
}

fn state(fake: &Arc<Fake>, store: &Store, logging: Option<Logging>) -> AdminState {
    let (waiting, own, drains, stops) = (fake.clone(), fake.clone(), fake.clone(), fake.clone());
    let dump = store.clone();
    AdminState {
        waiting: Box::new(move || waiting.waiting.lock().clone()),
        node: ("uid-1".to_owned(), "bookstore.shop".to_owned()),
        bootstrap: Box::new(|| serde_json::json!({ "node": { "id": "uid-1" } })),
        options: serde_json::json!({ "mode": "Serve" }),
        started: Instant::now(),
        failing: AtomicBool::new(false),
        draining: Box::new(|| false),
        listeners: Box::new(|| vec![("inbound".to_owned(), "127.0.0.1:15003".parse().unwrap())]),
        version: Box::new(|kind| format!("{kind}-9")),
        dump: Box::new(move || dump.dump()),
        certificates: Box::new(|| vec![chain()]),
        identity: Box::new(|| Some(identity::Status::default())),
        clusters: Box::new(clusters),
        metrics: Box::new(|| "a_total 1\n# EOF\n".to_owned()),
        metrics_type: crate::telemetry::CONTENT_TYPE,
        application: None,
        logging,
        drain: Box::new(move || {
            drains.drains.fetch_add(1, Ordering::Relaxed);
        }),
        stop: Box::new(move || {
            stops.stops.fetch_add(1, Ordering::Relaxed);
        }),
        own: Box::new(move |address| own.own.lock().contains(&address)),
        dialer: Dialer::default(),
    }
}

fn serve() -> Served {
    let fake = Arc::new(Fake::default());
    let (store, _interest) = Store::new();
    let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
    let subscriber = Registry::default().with(filter);
    let state = Arc::new(state(&fake, &store, Some(Logging::new(handle))));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let [admin, stats, health] =
        [Role::Admin, Role::Stats, Role::Health].map(|role| role.serve(any, &state).unwrap());
    Served {
        fake,
        admin,
        stats,
        health,
        store,
        _subscriber: Box::new(subscriber),
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(
            self.head.contains("content-type: application/json"),
            "{}",
            self.head
        );
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends the text and reads to the end.
async fn raw(to: SocketAddr, request: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What was sent after a refused head makes the server reset the connection once it answered.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let answer = timeout(LIMIT, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Answer {
        status: head.split(' ').nth(1).unwrap_or("0").parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn ask(to: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    raw(
        to,
        &format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\n{headers}\r\n"),
    )
    .await
}

async fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path, "").await
}

#[tokio::test]
async fn readiness_says_what_is_missing_on_every_server() {
    let served = serve();
    for server in [served.admin, served.stats, served.health] {
        served
            .fake
            .waiting
            .lock()
            .push("certificate: not obtained yet".to_owned());
        let answer = get(server, "/ready").await;
        assert_eq!(answer.status, 503);
        assert!(
            answer.body.contains("certificate: not obtained yet"),
            "{}",
            answer.body
        );
        served.fake.waiting.lock().clear();
        let answer = get(server, "/ready").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "LIVE\n"));
    }
    served.fake.waiting.lock().push("xds".to_owned());
    assert_eq!(get(served.admin, "/live").await.status, 200);
}

#[tokio::test]
async fn the_first_page_lists_the_others() {
    let served = serve();
    let index = get(served.admin, "/").await;
    assert_eq!(index.status, 200);
    let listed = index.body.lines().filter_map(|line| {
        line.split_whitespace()
            .collect::<Vec<_>>()
            .get(..2)
            .map(|two| (two[0].to_owned(), two[1].to_owned()))
    });
    for (_, path) in listed.filter(|(method, _)| method == "GET") {
        assert_eq!(get(served.admin, &path).await.status, 200, "{path}");
    }
    assert_eq!(get(served.admin, "/nothing").await.status, 404);
}

#[tokio::test]
async fn metrics_are_on_admin_and_stats() {
    let served = serve();
    for server in [served.admin, served.stats] {
        for path in ["/metrics", "/stats/prometheus"] {
            let answer = get(server, path).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "a_total 1\n# EOF\n"));
            assert!(
                answer.head.contains(crate::telemetry::CONTENT_TYPE),
                "{}",
                answer.head
            );
        }
    }
    assert_eq!(get(served.health, "/metrics").await.status, 404);
}

#[tokio::test]
async fn the_config_dump_has_static_dynamic_and_refused_resources() {
    let served = serve();
    let cluster =
        crate::bootstrap::from_json::<ClusterMessage>("{name: fixed, connect_timeout: 3s}").unwrap();
    let source = |version: &str| Source {
        version: version.to_owned(),
        message: Some(Arc::new(pack(&cluster))),
    };
    let roots = Arc::new(Secret::TrustBundle(TrustBundle::default()));
    served.store.publish_from("fixed", roots.clone(), source(""));
    served.store.apply("served", State::Ready(roots), source("v7"));
    let _waited = served.store.watch::<Listener>("awaited");
    let dump = get(served.admin, "/config_dump").await.json();
    let section = |name: &str| {
        let configs = dump["configs"].as_array().unwrap();
        let found = configs
            .iter()
            .find(|section| section["@type"].as_str().unwrap().ends_with(name));
        found.unwrap().clone()
    };
    assert_eq!(
        section(".BootstrapConfigDump")["bootstrap"]["node"]["id"],
        "uid-1"
    );
    let secrets = section(".SecretsConfigDump");
    assert_eq!(secrets["static_secrets"][0]["secret"]["name"], "fixed");
    assert_eq!(secrets["dynamic_active_secrets"][0]["name"], "served");
    assert_eq!(secrets["dynamic_active_secrets"][0]["version_info"], "v7");
    let updated = secrets["dynamic_active_secrets"][0]["last_updated"]
        .as_str()
        .unwrap();
    assert!(updated.starts_with("20") && updated.ends_with('Z'), "{updated}");
    let secret = &secrets["dynamic_active_secrets"][0]["secret"];
    assert!(secret["@type"].as_str().unwrap().ends_with("tls.v3.Secret"));
    assert!(secrets.get("version_info").is_none(), "{secrets}");
    let listeners = section(".ListenersConfigDump");
    assert_eq!(listeners["version_info"], "lds-9");
    let awaited = &listeners["dynamic_listeners"][0];
    assert_eq!(
        (&awaited["state"], &awaited["client_status"]),
        (&"pending".into(), &"REQUESTED".into())
    );
    assert!(awaited.get("active_state").is_none());
}

#[tokio::test]
async fn certificates_are_shown_with_names_and_times() {
    let served = serve();
    let page = get(served.admin, "/certs").await.json();
    let leaf = &page["certificates"][0]["cert_chain"][0];
    assert_eq!(leaf["valid_from"], "2020-01-02T00:00:00Z");
    assert_eq!(leaf["expiration_time"], "2090-03-04T00:00:00Z");
    assert!(leaf["days_until_expiration"].as_i64().unwrap() > 10_000);
    let names = leaf["subject_alt_names"].to_string();
    assert!(
        names.contains(r#"{"uri":"spiffe://cluster.local/ns/shop/sa/bookstore"}"#),
        "{names}"
    );
    assert!(
        names.contains(r#"{"dns":"bookstore.shop.cluster.local"}"#),
        "{names}"
    );
    assert_eq!(page["renewal"]["rotations"], 0);
}

#[tokio::test]
async fn clusters_are_shown_for_people_and_programs() {
    let served = serve();
    let text = get(served.admin, "/clusters").await.body;
    assert!(
        text.contains("shop/bookstore|80::10.1.2.3:8080::in_flight::7\n"),
        "{text}"
    );
    assert!(
        text.contains("shop/bookstore|80::10.1.2.3:8080::pod::shop/bookstore-1\n"),
        "{text}"
    );
    assert!(text.contains("shop/other|80::state::pending\n"), "{text}");
    for line in ["::observability_name::shop/bookstore|80", "::added_via_api::true"] {
        assert!(text.contains(&format!("shop/bookstore|80{line}\n")), "{text}");
    }
    let filtered = get(served.admin, "/clusters?filter=other").await.body;
    assert!(
        !filtered.contains("bookstore") && filtered.contains("shop/other|80"),
        "{filtered}"
    );
    let json = get(served.admin, "/clusters?format=json").await.json();
    let host = &json["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], 8080);
    assert_eq!(host["in_flight"], 7);
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert_eq!(json["cluster_statuses"][1]["state"], "pending");
}

#[tokio::test]
async fn the_log_level_changes_by_post_only() {
    let served = serve();
    assert_eq!(get(served.admin, "/logging").await.body, "level: info\n");
    let answer = get(served.admin, "/logging?level=debug").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: GET, HEAD, POST"), "{}", answer.head);
    assert_eq!(get(served.admin, "/logging").await.body, "level: info\n");
    let answer = ask(served.admin, "POST", "/logging?level=warning", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "level: warn\n"));
    for wrong in ["/logging?level=loud", "/logging"] {
        let answer = ask(served.admin, "POST", wrong, "").await;
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("trace"), "{}", answer.body);
    }
    assert_eq!(get(served.admin, "/logging").await.body, "level: warn\n");
}

#[tokio::test]
async fn state_changes_by_post_only() {
    let served = serve();
    for path in ["/quitquitquit", "/shutdown", "/drain_listeners"] {
        let answer = get(served.admin, path).await;
        assert_eq!(answer.status, 405);
        assert!(answer.head.contains("allow: POST"), "{}", answer.head);
    }
    assert_eq!(served.fake.stops.load(Ordering::Relaxed), 0);
    for path in ["/quitquitquit", "/shutdown", "/drain_listeners"] {
        assert_eq!(ask(served.admin, "POST", path, "").await.status, 200);
    }
    assert_eq!(served.fake.stops.load(Ordering::Relaxed), 2);
    assert_eq!(served.fake.drains.load(Ordering::Relaxed), 1);
    assert_eq!(ask(served.admin, "POST", "/certs", "").await.status, 405);
}
