//! Clients that misbehave: each is bounded, told why where it is refused, counted, and not noticed by another proxy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, sync::mpsc, task::JoinHandle, time::timeout};
use tonic::Code;
use weir_xds::{ResourceType, google::rpc};

use crate::mesh::{BUYER, Controller, Delta, Door, PATIENCE};

const STORE_CLUSTER: &str = "bookstore/bookstore|80";
/// A change takes a millisecond or two to a proxy; this is for busy machines.
const UNNOTICED: Duration = Duration::from_secs(2);

const HERE: [u8; 4] = [127, 0, 0, 1];

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
    for _ in 0..12 {
        let mut stream = Delta::open(&controller, &certificate, BUYER).await.unwrap();
        stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
        stream.update().await;
        streams.push(stream);
    }
    assert_eq!(count(&controller, "osm_proxy_connect_count").await, 2);
    assert_eq!(count(&controller, "osm_proxy_reconnect_count").await, 11);
    neighbour.is_served(&controller).await;
    let mut last = streams.pop().unwrap();
    assert!(last.update().await.0.contains_key(STORE_CLUSTER));
    for mut replaced in streams {
        assert_eq!(replaced.next().await.unwrap_err().code(), Code::Aborted);
    }
}

/// Connects again and again, and drops what it gets; counts how often it was let in.
fn connect_in_a_loop(door: &Door, let_in: &Arc<AtomicU64>) -> JoinHandle<()> {
    let (door, let_in) = (door.clone(), let_in.clone());
    tokio::spawn(async move {
        loop {
            if let Ok(mut stream) = door.knock(HERE).await
                && Door::is_opened(&mut stream).await
            {
                let_in.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

#[tokio::test]
async fn who_connects_in_a_loop_waits_and_others_do_not() {
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let other = controller.certificate("bookstore").await;
    let certificate = controller.certificate("bookbuyer").await;
    let (door, let_in) = (controller.door(Some(&certificate)), Arc::default());
    let begun = Instant::now();
    let loops: Vec<_> = (0..3).map(|_| connect_in_a_loop(&door, &let_in)).collect();
    let waited = "weir_xds_paced_total{what=\"connection\"}";
    while count(&controller, waited).await < 2 {
        assert!(begun.elapsed() < PATIENCE, "{let_in:?} were let in");
        neighbour.is_served(&controller).await;
        // From the same address.
        let asked = Instant::now();
        let mut stream = controller.door(Some(&other)).knock(HERE).await.unwrap();
        assert!(Door::is_opened(&mut stream).await);
        assert!(asked.elapsed() < UNNOTICED, "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let (let_in, seconds) = (let_in.load(Ordering::Relaxed), begun.elapsed().as_secs());
    assert!((17..=18 + seconds).contains(&let_in), "{let_in} in {seconds} s");
    assert!(count(&controller, "weir_xds_refused_total{reason=\"reconnects\"}").await > 0);
    loops.iter().for_each(JoinHandle::abort);
    let mut stream = Delta::open(&controller, &certificate, BUYER).await.unwrap();
    stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    assert!(stream.update().await.0.contains_key(STORE_CLUSTER));
}

#[tokio::test]
async fn connections_without_a_stream_are_few_and_end() {
    /// Handshakes of one address.
    const TURNS: usize = 32;
    let controller = Controller::start().await;
    let mut neighbour = Neighbour::of(&controller).await;
    let certificate = controller.certificate("bookstore").await;
    let silent = controller.door(None);
    let (events, mut seen) = mpsc::unbounded_channel();
    for _ in 0..TURNS + 8 {
        let (silent, events) = (silent.clone(), events.clone());
        tokio::spawn(async move {
            let mut stream = silent.knock(HERE).await.unwrap();
            let _ = events.send(true);
            let mut rest = Vec::new();
            // Hung up on, politely or not.
            let _ = stream.read_to_end(&mut rest).await;
            let _ = events.send(false);
        });
    }
    for _ in 0..TURNS {
        assert_eq!(seen.recv().await, Some(true));
    }
    neighbour.is_served(&controller).await;
    let asked = Instant::now();
    let mut stream = controller
        .door(Some(&certificate))
        .knock([127, 0, 0, 2])
        .await
        .unwrap();
    assert!(Door::is_opened(&mut stream).await);
    assert!(asked.elapsed() < UNNOTICED, "{:?}", asked.elapsed());
    assert_eq!(
        seen.recv().await,
        Some(false),
        "no further one before one has ended"
    );
    let ended = timeout(PATIENCE * 4, async {
        let mut ended = 1;
        while ended < TURNS + 8 {
            ended += usize::from(seen.recv().await == Some(false));
        }
    });
    ended.await.expect("all end");
    let refused = count(&controller, "weir_xds_refused_total{reason=\"no_stream\"}").await;
    assert!(refused >= (TURNS + 8) as u64, "{refused}");
}
