//! Health, metrics and debug pages, in plain HTTP.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::xds::Hub;

const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const STARTING: u8 = 0;
const READY: u8 = 1;
const LEAVING: u8 = 2;

/// What the pages show.
pub struct Admin {
    /// Where they are.
    pub address: SocketAddr,
    registry: Mutex<Registry>,
    hub: OnceLock<Arc<Hub>>,
    state: AtomicU8,
}

impl Admin {
    /// Serves the pages until told to stop. There are metrics and liveness at once; the rest comes later.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        address: SocketAddr,
        registry: Registry,
        stop: CancellationToken,
    ) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(address).await?;
        let admin = Arc::new(Self {
            address: listener.local_addr()?,
            registry: Mutex::new(registry),
            hub: OnceLock::new(),
            state: AtomicU8::new(STARTING),
        });
        tokio::spawn(admin.clone().serve(listener, stop));
        Ok(admin)
    }

    /// Adds metrics.
    pub fn register<T>(&self, metrics: impl FnOnce(&mut Registry) -> T) -> T {
        metrics(&mut self.registry.lock())
    }

    /// Shows the sessions from now on.
    pub fn show(&self, hub: Arc<Hub>) {
        // There is one hub in a process.
        let _ = self.hub.set(hub);
    }

    /// Says that sidecars can be served.
    pub fn become_ready(&self) {
        // A replica that is leaving stays not ready, whatever is published meanwhile.
        let _ = self
            .state
            .compare_exchange(STARTING, READY, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Says that this replica is stopping.
    pub fn leave(&self) {
        self.state.store(LEAVING, Ordering::Release);
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!(%error, "cannot accept on the health address");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request: Request<Incoming>| {
                    let response = admin.answer(request.method(), request.uri().path());
                    async { Ok::<_, Infallible>(response) }
                });
                // A client that goes away early is its own business.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
                drop(permit);
            });
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match path {
            "/health/alive" => text(StatusCode::OK, "alive\n"),
            "/health/ready" => match self.state.load(Ordering::Acquire) {
                READY => text(StatusCode::OK, "ready\n"),
                LEAVING => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
                _ => text(StatusCode::SERVICE_UNAVAILABLE, "the mesh is not known yet\n"),
            },
            "/metrics" => self.metrics(),
            "/version" => json(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION") })),
            "/debug/xds" => {
                json(&serde_json::json!({ "sessions": self.hub.get().map(|hub| hub.sessions()) }))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "try /health/ready /health/alive /metrics /version /debug/xds\n",
            ),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut body = String::new();
        match encode(&mut body, &self.registry.lock()) {
            Ok(()) => typed(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body,
            ),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
