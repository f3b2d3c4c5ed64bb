//! A web server that answers every request with what it got: for tests of what arrives where.
//!
//! `/status/503` has that status, `/delay/200` takes that many milliseconds, `/metrics` counts requests as Prometheus
//! reads it. It also answers health checks of gRPC.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use serde_json::json;

use crate::web;

/// Where to serve and who it is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; may be given several times.
    #[arg(long)]
    port: Vec<u16>,
    /// Port to serve HTTPS on, with a certificate of its own making.
    #[arg(long)]
    tls_port: Option<u16>,
    /// What it calls itself.
    #[arg(long, env = "NAME", default_value = "")]
    name: String,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

struct Mirror {
    name: String,
    pod: String,
    requests: AtomicU64,
}

/// Serves until the process ends.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mirror = Arc::new(Mirror {
        name: args.name,
        pod: std::env::var("HOSTNAME").unwrap_or_default(),
        requests: AtomicU64::new(0),
    });
    let mut servers = tokio::task::JoinSet::new();
    for port in args.port {
        let mirror = Arc::clone(&mirror);
        servers.spawn(async move { web::serve(port, handler(mirror, port)).await });
    }
    if let Some(port) = args.tls_port {
        servers.spawn(async move { web::serve_tls(port, handler(mirror, port)).await });
    }
    servers.join_next().await.context("give --port or --tls-port")??
}

fn handler(
    mirror: Arc<Mirror>,
    port: u16,
) -> impl Fn(Request<Incoming>) -> BoxedAnswer + Send + Sync + 'static {
    move |request| {
        let mirror = Arc::clone(&mirror);
        Box::pin(async move { mirror.answer(port, request).await })
    }
}

type BoxedAnswer = std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Mirror {
    async fn answer(&self, port: u16, request: Request<Incoming>) -> Answer {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path().to_owned();
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        match words.as_slice() {
            ["grpc.health.v1.Health", "Check"] => return serving(),
            ["metrics"] => return whole(StatusCode::OK, self.metrics()),
            ["delay", milliseconds] => {
                tokio::time::sleep(Duration::from_millis(milliseconds.parse().unwrap_or(0))).await;
            }
            _ => {}
        }
        let status = match words.as_slice() {
            ["status", code] => code.parse().unwrap_or(StatusCode::BAD_REQUEST),
            _ => StatusCode::OK,
        };
        let headers: BTreeMap<_, _> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let shown = json!({
            "name": self.name,
            "pod": self.pod,
            "port": port,
            "method": request.method().as_str(),
            "path": path,
            "version": format!("{:?}", request.version()),
            "headers": headers,
        });
        whole(status, shown.to_string())
    }

    fn metrics(&self) -> String {
        let requests = self.requests.load(Ordering::Relaxed);
        format!("# TYPE mirror_requests counter\nmirror_requests_total {requests}\n# EOF\n")
    }
}

fn whole(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)).boxed());
    *answer.status_mut() = status;
    answer
}

/// A `HealthCheckResponse` that says SERVING, and the trailers that end a call well.
fn serving() -> Answer {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let message = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
    let body = message.with_trailers(async move { Some(Ok(trailers)) });
    let mut answer = Response::new(body.boxed());
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}
