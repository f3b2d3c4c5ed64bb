//! Plain HTTP: a server of one handler, and a client with a connection pool.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Bodies are a few bytes in this demo; anything beyond is not for us.
const MAX_BODY: usize = 64 * 1024;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// A response with its whole body.
pub(crate) type Answer = Response<Full<Bytes>>;

/// An answer with this status and text.
pub(crate) fn answer(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer
}

/// An answer that shows a value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => answer(StatusCode::OK, text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Serves HTTP/1 and HTTP/2 on a port until the process ends.
pub(crate) async fn serve<H, F, B>(port: u16, handler: H) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    accept(port, Arc::new(handler), async |stream| Ok(stream)).await
}

/// As [`serve`], over TLS with a certificate that nobody else signed.
pub(crate) async fn serve_tls<H, F, B>(port: u16, handler: H) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    accept(port, Arc::new(handler), async move |stream| {
        acceptor.accept(stream).await
    })
    .await
}

async fn accept<H, F, B, S>(
    port: u16,
    handler: Arc<H>,
    secure: impl AsyncFn(TcpStream) -> io::Result<S>,
) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let listener = bind(port).await?;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // A client that is silent keeps the others waiting no longer than this.
        match tokio::time::timeout(HANDSHAKE, secure(stream)).await {
            Ok(Ok(stream)) => converse(stream, Arc::clone(&handler)),
            Ok(Err(error)) => tracing::debug!("handshake: {error}"),
            Err(error) => tracing::debug!("handshake: {error}"),
        }
    }
}

/// Serves one connection on the side.
fn converse<H, F, B>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, handler: Arc<H>)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let handler = Arc::clone(&handler);
            async move { Ok::<_, Infallible>(handler(request).await) }
        });
        let connection = auto::Builder::new(TokioExecutor::new());
        if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!("connection: {error}");
        }
    });
}

/// Listens on a port of every address, IPv6 included where the kernel has it.
pub(crate) async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let any6 = SocketAddr::from(([0u16; 8], port));
    match TcpListener::bind(any6).await {
        Ok(listener) => Ok(listener),
        Err(_) => {
            let any4 = SocketAddr::from(([0u8; 4], port));
            TcpListener::bind(any4)
                .await
                .with_context(|| format!("cannot listen on {any4}"))
        }
    }
}

/// A client that keeps connections open.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl Client {
    /// A client whose requests each end within `timeout`.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            pool: Pool::builder(TokioExecutor::new()).build_http(),
            timeout,
        }
    }

    /// As [`Client::new`], with HTTP/2 and nothing else.
    pub(crate) fn http2(timeout: Duration) -> Self {
        Self {
            pool: Pool::builder(TokioExecutor::new()).http2_only(true).build_http(),
            timeout,
        }
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let exchange = async {
            let response = self.pool.request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .with_context(|| format!("no answer within {:?}", self.timeout))?
    }
}
