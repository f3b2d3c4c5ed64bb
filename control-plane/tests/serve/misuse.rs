//! Clients that misbehave: each is bounded, told why where it is refused, counted, and not noticed by another proxy.

use std::time::{Duration, Instant};

use tonic::Code;
use weir_xds::{ResourceType, google::rpc};

use crate::mesh::{BUYER, Controller, Delta, PATIENCE};

const STORE_CLUSTER: &str = "bookstore/bookstore|80";
/// A change takes a millisecond or two to a proxy; this is for busy machines.
const UNNOTICED: Duration = Duration::from_secs(2);

/// A proxy that behaves, beside the one that does not.
struct Neighbour(Delta);

impl Neighbour {
    async fn of(controller: &Controller) -> Self {
        let mut stream = controller.connect("bookstore").await;
        stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
        stream.update().await;
        Self(stream)
    }

    /// It hears of a change in time.
    async fn is_served(&mut self, controller: &Controller) {
        controller.change_service("bookstore", |service| {
            let endpoints = &mut service.ports[0].endpoints;
            endpoints[0].port += 1;
        });
        let changed = Instant::now();
        let (update, _) = self.0.update().await;
        assert!(update.contains_key(STORE_CLUSTER));
        assert!(changed.elapsed() < UNNOTICED, "{:?}", changed.elapsed());
    }
}

async fn count(controller: &Controller, metric: &str) -> u64 {
    let metrics = controller.metrics().await;
    let found = metrics
        .lines()
        .find_map(|line| line.strip_prefix(metric)?.trim().parse().ok());
    found.unwrap_or(0)
}

#[tokio::test]
async fn a_million_names_are_refused() {
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let mut stream = controller.connect("bookbuyer").await;
    let refused = async {
        for batch in 0..100 {
            let names = (0..10_000).map(|n| format!("a/b{batch}-{n}|80")).collect();
            stream
                .send(ResourceType::Endpoints, |request| {
                    request.resource_names_subscribe = names
                })
                .await;
            if let Err(status) = stream.next().await {
                return status;
            }
        }
        panic!("a million names were taken in");
    };
    assert_eq!(refused.await.code(), Code::ResourceExhausted);
    assert_eq!(
        count(&controller, "weir_xds_refused_total{reason=\"names_limit\"}").await,
        1
    );
    neighbour.is_served(&controller).await;
}

#[tokio::test]
async fn answers_to_nothing_change_nothing() {
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let mut stream = controller.connect("bookbuyer").await;
    stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    let first = stream.next().await.unwrap();
    let nonces = [
        "",
        "0",
        "18446744073709551616",
        "none",
        &first.nonce,
        &first.nonce,
    ];
    let kinds = [ResourceType::Endpoints, ResourceType::Route, ResourceType::Secret];
    for (n, nonce) in (0..500).map(|n| (n, nonces[n % nonces.len()])) {
        let kind = kinds[n % kinds.len()];
        stream
            .send(kind, |request| {
                request.response_nonce = nonce.to_owned();
                request.error_detail = (n % 3 == 0).then(rpc::Status::default);
                if n % 50 == 0 {
                    request.type_url = "type.googleapis.com/no.such.Type".to_owned();
                }
            })
            .await;
    }
    neighbour.is_served(&controller).await;
    // It is served as before, with this change and no other response.
    let (update, removed) = stream.update().await;
    assert!(update.contains_key(STORE_CLUSTER) && removed.is_empty());
    stream.subscribe(ResourceType::Secret, &["trust-bundle"]).await;
    assert!(stream.update().await.0.contains_key("trust-bundle"));
}

#[tokio::test]
async fn who_answers_without_end_is_read_slowly() {
    const READ: &str = "osm_proxy_xds_request_count{type=\"eds\"}";
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let mut stream = controller.connect("bookbuyer").await;
    stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    stream.update().await;
    let flood = tokio::spawn(async move {
        loop {
            let nonce = "of another stream".to_owned();
            stream
                .send(ResourceType::Endpoints, |request| request.response_nonce = nonce)
                .await;
        }
    });
    let begun = Instant::now();
    while count(&controller, READ).await < 900 {
        assert!(begun.elapsed() < PATIENCE, "a burst is read at once");
    }
    let burst = Instant::now();
    neighbour.is_served(&controller).await;
    let taken = u128::from(count(&controller, READ).await);
    assert!(
        taken < 1_100 + burst.elapsed().as_millis() / 5,
        "{taken} requests"
    );
    flood.abort();
}

#[tokio::test]
async fn a_giant_message_ends_the_stream_only() {
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let mut stream = controller.connect("bookbuyer").await;
    let name = "x".repeat(16 << 20);
    stream
        .send(ResourceType::Endpoints, |request| {
            request.resource_names_subscribe = vec![name]
        })
        .await;
    assert_ne!(stream.next().await.unwrap_err().code(), Code::Ok);
    assert_eq!(
        count(&controller, "weir_xds_refused_total{reason=\"unreadable\"}").await,
        1
    );
    neighbour.is_served(&controller).await;
}

#[tokio::test]
async fn of_many_streams_of_a_pod_one_is_held() {
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let certificate = controller.certificate("bookbuyer").await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = Delta::open(&controller, &certificate, BUYER).await.unwrap();
        stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
        stream.update().await;
        streams.push(stream);
    }
    assert_eq!(count(&controller, "osm_proxy_connect_count").await, 2);
    assert_eq!(count(&controller, "osm_proxy_reconnect_count").await, 39);
    neighbour.is_served(&controller).await;
    let mut last = streams.pop().unwrap();
    assert!(last.update().await.0.contains_key(STORE_CLUSTER));
    for mut replaced in streams {
        assert_eq!(replaced.next().await.unwrap_err().code(), Code::Aborted);
    }
}
