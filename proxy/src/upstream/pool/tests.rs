use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http_body_util::BodyExt;
use hyper::{server::conn, service::service_fn};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    model::{self, AppProtocol, Cluster, Discovery, Limits, OutlierDetection},
    net::Dialer,
    reason::Reason,
    telemetry::Telemetry,
    upstream::usage::Usage,
};

/// Answers each request once a permit is there, and counts the connections.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    connections: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Server {
    async fn start(http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
            connections: Arc::default(),
        };
        let (accepted, permits) = (server.accepted.clone(), server.permits.clone());
        let connections = server.connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let permits = permits.clone();
                let service = service_fn(move |request: Request<_>| {
                    let permits = permits.clone();
                    async move {
                        if request.uri().path() == "/large" {
                            let large = vec![0; 2 * limits::STREAM_WINDOW as usize];
                            return Ok(Response::new(Body::full(large)));
                        }
                        permits.acquire().await.unwrap().forget();
                        Ok::<_, Infallible>(Response::new(Body::full("ok")))
                    }
                });
                let io = TokioIo::new(stream);
                let served = if http2 {
                    let builder = conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(builder.serve_connection(io, service)).abort_handle()
                } else {
                    tokio::spawn(conn::http1::Builder::new().serve_connection(io, service)).abort_handle()
                };
                connections.lock().push(served);
            }
        });
        server
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn endpoint(&self, limits: Limits, usage: &Arc<Usage>) -> Arc<Endpoint> {
        let cluster = Cluster {
            name: "c".to_owned(),
            discovery: Discovery::OriginalDst,
            connect_timeout: Duration::from_secs(5),
            tls: None,
            protocol: AppProtocol::Downstream,
            limits,
            outlier_detection: Some(OutlierDetection {
                consecutive_5xx: 2,
                base_ejection_time: Duration::from_secs(30),
                max_ejection_time: Duration::from_secs(30),
                max_ejection_percent: 100,
            }),
        };
        let model = model::Endpoint {
            address: self.address,
            weight: 1,
            principal: None,
            workload: Arc::default(),
        };
        let requests = Telemetry::default().requests.unknown();
        Arc::new(Endpoint::new(model, &Arc::new(cluster), None, requests, usage))
    }
}

type Answer = Result<Response<Body>, SendError>;

fn ask(endpoint: &Arc<Endpoint>, http2: bool) -> JoinHandle<Answer> {
    ask_for(endpoint, "http://app/", http2)
}

fn ask_for(endpoint: &Arc<Endpoint>, uri: &'static str, http2: bool) -> JoinHandle<Answer> {
    let endpoint = endpoint.clone();
    tokio::spawn(async move {
        let connector = Connector::new(Dialer::default(), &Telemetry::default());
        let head = Request::get(uri).body(()).unwrap();
        let begun = endpoint.begin()?;
        if http2 {
            begun.send_http2(&connector, &head, Body::empty()).await
        } else {
            begun.send_http1(&connector, &head, Body::empty(), false).await
        }
    })
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(10), future).await.expect("in time")
}

/// Reads the response to its end, which gives the connection back.
async fn read(asked: JoinHandle<Answer>) {
    let response = soon(asked).await.unwrap().unwrap();
    let body = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(body.to_bytes(), "ok");
}

async fn until(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn is_overflow(answer: &Answer) -> bool {
    answer
        .as_ref()
        .is_err_and(|error| error.reason() == Reason::Overflow)
}

#[tokio::test]
async fn a_connection_given_back_is_used_again() {
    let server = Server::start(false).await;
    server.permits.add_permits(3);
    let endpoint = server.endpoint(Limits::default(), &Arc::default());
    for _ in 0..3 {
        read(ask(&endpoint, false)).await;
        until(|| endpoint.pool.http1.lock().len() == 1).await;
        assert_eq!(endpoint.in_flight(), 0);
    }
    assert_eq!(server.accepted(), 1);
    endpoint.retire();
    until(|| endpoint.pool.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_it_may() {
    for http2 in [false, true] {
        let server = Server::start(http2).await;
        server.permits.add_permits(4);
        let limits = Limits {
            requests_per_connection: Some(2),
            ..Limits::default()
        };
        let endpoint = server.endpoint(limits, &Arc::default());
        for _ in 0..4 {
            read(ask(&endpoint, http2)).await;
            until(|| endpoint.pool.http1.lock().len() == endpoint.pool.open.load(Ordering::SeqCst) || http2)
                .await;
        }
        assert_eq!(server.accepted(), 2, "http2: {http2}");
    }
}

#[tokio::test]
async fn without_room_for_a_connection_a_request_waits_for_one() {
    let server = Server::start(false).await;
    let limits = Limits {
        connections: Some(1),
        pending_requests: Some(1),
        ..Limits::default()
    };
    let usage = Arc::<Usage>::default();
    let endpoint = server.endpoint(limits, &usage);
    let first = ask(&endpoint, false);
    until(|| server.accepted() == 1 && usage.take(Kind::Pending, &limits).is_ok()).await;
    let second = ask(&endpoint, false);
    until(|| usage.take(Kind::Pending, &limits).is_err()).await;
    let third = soon(ask(&endpoint, false)).await.unwrap();
    assert!(is_overflow(&third));
    server.permits.add_permits(2);
    read(first).await;
    read(second).await;
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn no_endpoint_is_cut_off_by_the_connections_of_another() {
    let (one, other) = (Server::start(false).await, Server::start(false).await);
    let limits = Limits {
        connections: Some(1),
        ..Limits::default()
    };
    let usage = Arc::<Usage>::default();
    for server in [&one, &other] {
        server.permits.add_permits(1);
        let endpoint = server.endpoint(limits, &usage);
        read(ask(&endpoint, false)).await;
    }
    assert_eq!((one.accepted(), other.accepted()), (1, 1));
}

#[tokio::test]
async fn requests_beyond_the_limit_overflow() {
    let server = Server::start(false).await;
    let limits = Limits {
        requests: Some(1),
        ..Limits::default()
    };
    let endpoint = server.endpoint(limits, &Arc::default());
    let first = ask(&endpoint, false);
    until(|| endpoint.in_flight() == 1).await;
    assert!(is_overflow(&soon(ask(&endpoint, false)).await.unwrap()));
    server.permits.add_permits(2);
    read(first).await;
    read(ask(&endpoint, false)).await;
}

#[tokio::test]
async fn a_burst_over_http2_shares_one_connection() {
    let server = Server::start(true).await;
    let endpoint = server.endpoint(Limits::default(), &Arc::default());
    let asked: Vec<_> = (0..50).map(|_| ask(&endpoint, true)).collect();
    until(|| endpoint.in_flight() == 50).await;
    server.permits.add_permits(50);
    for asked in asked {
        read(asked).await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn responses_that_no_one_reads_hold_up_no_others() {
    let server = Server::start(true).await;
    let endpoint = server.endpoint(Limits::default(), &Arc::default());
    let mut unread = Vec::new();
    for _ in 1..STREAMS {
        let asked = ask_for(&endpoint, "http://app/large", true);
        unread.push(soon(asked).await.unwrap().unwrap());
    }
    for _ in 0..50 {
        server.permits.add_permits(1);
        read(ask(&endpoint, true)).await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn an_http2_connection_ends_when_no_one_uses_it() {
    let server = Server::start(true).await;
    server.permits.add_permits(2);
    let endpoint = server.endpoint(Limits::default(), &Arc::default());
    let response = soon(ask(&endpoint, true)).await.unwrap().unwrap();
    endpoint.retire();
    assert_eq!(endpoint.pool.open.load(Ordering::SeqCst), 1);
    let body = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(body.to_bytes(), "ok");
    until(|| endpoint.pool.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_request_that_found_its_http2_connection_closed_takes_another() {
    let server = Server::start(true).await;
    let endpoint = server.endpoint(Limits::default(), &Arc::default());
    for round in 1..=3 {
        server.permits.add_permits(1);
        read(ask(&endpoint, true)).await;
        assert_eq!(server.accepted(), round);
        let served = server.connections.lock().pop().unwrap();
        served.abort();
        until(|| served.is_finished()).await;
        until(|| endpoint.pool.open.load(Ordering::SeqCst) == 0).await;
        assert!(endpoint.pool.share(None, false).is_none());
    }
}

#[tokio::test]
async fn failures_in_a_row_eject() {
    let server = Server::start(false).await;
    let endpoint = server.endpoint(Limits::default(), &Arc::default());
    let limits = || crate::balance::Limits {
        endpoints: 2,
        ejected: 0,
    };
    assert!(!endpoint.record(true, limits));
    assert!(!endpoint.record(false, limits));
    assert!(!endpoint.record(true, limits));
    assert!(!endpoint.is_ejected());
    assert!(endpoint.record(true, limits));
    assert!(endpoint.is_ejected());
}
