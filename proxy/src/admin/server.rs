//! HTTP/1 for the page servers, with every resource bounded: connections, their time, headers, bodies.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{AdminState, Page, Role, health, host, merge, not_allowed, pages, ready, text};

/// Connections of one server at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// A request's head has to arrive within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection, which carries one request, ends after this.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a request's head. The least that hyper allows.
const HEAD_SIZE: usize = 8192;
/// Headers of a request.
const HEADERS: usize = 64;
/// Bytes of a request's body: no page takes one.
const BODY_SIZE: u64 = 1;
/// A pause when the system has no more descriptors, for some to be given back.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// What asks the application.
#[derive(Default)]
struct Asking {
    health: health::Health,
    merge: merge::Merge,
}

/// Serves until the runtime ends.
pub(super) async fn serve(socket: TcpListener, role: Role, state: Arc<AdminState>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let asking = Arc::new(Asking::default());
    while let Ok(permit) = connections.clone().acquire_owned().await {
        match socket.accept().await {
            Ok((stream, _)) => {
                let (state, asking) = (state.clone(), asking.clone());
                tokio::spawn(async move {
                    connection(stream, role, state, asking).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, role: Role, state: Arc<AdminState>, asking: Arc<Asking>) {
    let service = service_fn(|request| {
        let (state, asking) = (state.clone(), asking.clone());
        async move { Ok::<_, Infallible>(answer(request, role, &state, &asking).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away or asks nonsense is its own trouble.
    let _ = timeout(CONNECTION_LIMIT, serving).await;
}

async fn answer(request: Request<Incoming>, role: Role, state: &AdminState, asking: &Asking) -> Page {
    let size = request.body().size_hint();
    if size.upper().is_none_or(|size| size > BODY_SIZE) {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "No page here takes a request body.",
        );
    }
    let (request, _) = request.into_parts();
    if role == Role::Admin {
        return host::refusal(&request).unwrap_or_else(|| pages::answer(&request, state));
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD", "These pages are only read: use GET.");
    }
    match (role, request.uri.path()) {
        (_, "/ready") => ready(state),
        (Role::Stats, "/stats/prometheus" | "/metrics") => asking.merge.page(state).await,
        (Role::Health, "/osm-healthcheck") => asking.health.check(&request.headers, state).await,
        (Role::Stats, _) => text(
            StatusCode::NOT_FOUND,
            "Not here. There are /stats/prometheus, /metrics and /ready.",
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "Not here. There are /ready and /osm-healthcheck.",
        ),
    }
}
