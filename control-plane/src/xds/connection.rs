//! One connection after its handshake: HTTP/2, for as long as there are streams on it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;
use tracing::debug;
use weir_xds::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;

use super::{
    Discovery, Peer,
    streams::{Held, Streams},
};
use crate::certificates::Signing;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy needs one stream and now and then a signature.
const STREAMS: u32 = 16;
/// What a client may send ahead of being read, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// How long there may be no stream, before the first and after one.
const WITHOUT_STREAM: Duration = Duration::from_secs(10);
/// How long streams get to end when all is told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// What is served on every connection.
#[derive(Clone)]
pub struct Services {
    /// Discovery.
    pub discovery: Discovery,
    /// Signing of certificates.
    pub signing: IstioCertificateServiceServer<Signing>,
}

impl Services {
    async fn call(mut self, request: Request<Body>) -> Response<Body> {
        let service = request.uri().path().split('/').nth(1);
        let answer = match service {
            Some(Discovery::NAME) => self.discovery.call(request).await,
            Some(IstioCertificateServiceServer::<Signing>::NAME) => self.signing.call(request).await,
            _ => Ok(Status::unimplemented("no such service").into_http()),
        };
        answer.unwrap_or_else(|never: Infallible| match never {})
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its client closed or broke it.
    ByClient,
    /// There was no stream on it, ever.
    NeverUsed,
    /// There was none any more.
    Unused,
    /// All was told to stop.
    Stopped,
}

/// Serves a connection until its client ends it or leaves it without streams, or all is told to stop. `opened` is
/// dropped with the first stream.
pub(super) fn serve<P: Send>(
    stream: TlsStream<TcpStream>,
    peer: Peer,
    services: Services,
    opened: P,
    stop: CancellationToken,
) -> impl Future<Output = End> + Send {
    let streams = Arc::new(Streams::default());
    let counted = streams.clone();
    let address = peer.address;
    let service = service_fn(move |request: Request<Incoming>| {
        let stream = counted.open();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let answer = services.clone().call(request);
        async move {
            let answer = answer.await;
            Ok::<_, Infallible>(answer.map(|body| Held {
                body,
                _stream: stream,
            }))
        }
    });
    // A future that moved it would have room for it twice.
    let mut connection = Box::pin(http().serve_connection(TokioIo::new(stream), service));
    async move {
        let (why, end, _unopened) = tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    debug!(peer = %address, %error, "a connection failed");
                }
                return End::ByClient;
            }
            opened = streams.unused(WITHOUT_STREAM, opened) => match opened {
                None => ("it had no stream for long", End::Unused, None),
                opened => ("no stream came", End::NeverUsed, opened),
            },
            () = stop.cancelled() => ("the controller is shutting down", End::Stopped, None),
        };
        debug!(peer = %address, why, "closing a connection");
        connection.as_mut().graceful_shutdown();
        // A client that does not take its leave is left.
        let _ = timeout(GRACE, connection).await;
        end
    }
}

fn http() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    http
}
