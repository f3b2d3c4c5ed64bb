//! The HTTPS server of the webhooks.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use kube::core::admission::AdmissionResponse;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{Metrics, Reviewer, review};
use crate::certificates::Serving;

/// etcd takes objects of 1.5 MiB; an update carries two.
const BODY: usize = 4 * 1024 * 1024;
/// Reviews at once, of each reviewer: with [`BODY`] they bound its memory.
const REVIEWS: usize = 32;
const CONNECTIONS: usize = 128;
const STREAMS: u32 = 64;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADERS: Duration = Duration::from_secs(10);
/// A little less than the API server waits, so that it is told why.
const REVIEW: Duration = Duration::from_secs(9);
const IDLE_PING: Duration = Duration::from_secs(60);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_secs(1);

/// Answers the API server until told to stop; what is being reviewed then is answered still.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<Serving>,
    reviewer: Arc<dyn Reviewer>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let server = Server {
        reviewer,
        metrics,
        reviews: Arc::new(Semaphore::new(REVIEWS)),
    };
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            break;
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept on a webhook's address");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (server, tls, watcher) = (server.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = server.connection(stream, &tls, watcher).await {
                debug!(%error, "a connection to a webhook ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    // Who is still there after the grace is not waited for.
    let _ = timeout(GRACE, graceful.shutdown()).await;
}

#[derive(Clone)]
struct Server {
    reviewer: Arc<dyn Reviewer>,
    metrics: Metrics,
    reviews: Arc<Semaphore>,
}

impl Server {
    async fn connection(
        &self,
        stream: TcpStream,
        tls: &Serving,
        watcher: Watcher,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let accept = TlsAcceptor::from(tls.webhook_config()).accept(stream);
        let stream = timeout(HANDSHAKE, accept)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let answer = service_fn(|request: Request<Incoming>| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(IDLE_PING);
        let connection = http.serve_connection(TokioIo::new(stream), answer).into_owned();
        watcher.watch(connection).await
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != self.reviewer.path() {
            return text(StatusCode::NOT_FOUND, "no webhook here");
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "webhooks are posted to");
        }
        let Ok(permit) = self.reviews.clone().acquire_owned().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping");
        };
        let server = self.clone();
        // A task of its own: a review that panics must not take the connection and its other reviews along.
        let answered = tokio::spawn(async move {
            let _permit = permit;
            timeout(REVIEW, server.review(request.into_body())).await
        });
        match answered.await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => text(StatusCode::GATEWAY_TIMEOUT, "the review took more than 9 s"),
            Err(error) => {
                error!(%error, path = self.reviewer.path(), "a review failed");
                text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the review failed; the controller's log says why",
                )
            }
        }
    }

    async fn review(&self, body: Incoming) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let body = match Limited::new(body, BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 4 MiB");
            }
            Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let request = match review::read(&body) {
            Ok(request) => request,
            Err(error) => {
                warn!(%error, path = self.reviewer.path(), "cannot answer the API server");
                return text(error.status(), &error.to_string());
            }
        };
        drop(body);
        let kind = review::kind(&request);
        let answer: AdmissionResponse = self.reviewer.review(request).await;
        self.metrics
            .answered(kind, answer.allowed, started.elapsed().as_secs_f64());
        match review::write(answer) {
            Ok(body) => response(StatusCode::OK, "application/json", Bytes::from(body)),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(
        status,
        "text/plain; charset=utf-8",
        Bytes::from(format!("{text}\n")),
    )
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
