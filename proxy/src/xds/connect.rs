//! How the proxy reaches its control plane: a byte stream is opened by whoever knows TLS, and gRPC runs on it.

use std::{io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Error};

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens a byte stream to the control plane, with TLS and ALPN `h2` when the cluster has it. Called once for
/// every connection; it should fail within the cluster's connect timeout.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync>;

/// HTTP/2 pings that find a peer gone silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Time between pings.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

/// A gRPC channel over one connection, opened now. Another cluster member may use it too: the certificate
/// signing service has the same address.
///
/// # Errors
/// When the stream cannot be opened or HTTP/2 does not start on it.
pub async fn channel(
    connect: &Connect,
    authority: &str,
    keepalive: Option<Keepalive>,
) -> Result<Channel, Error> {
    let mut endpoint = Endpoint::from_shared(format!("http://{authority}"))?.tcp_nodelay(true);
    if let Some(keepalive) = keepalive {
        endpoint = endpoint
            .http2_keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true);
    }
    let connect = connect.clone();
    let connector = tower::service_fn(move |_| {
        let opening = connect();
        async move { opening.await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await
}
