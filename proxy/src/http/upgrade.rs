//! Connections that stop being HTTP: after the switch bytes are copied as they are.

use std::time::Duration;

use http::Request;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    drain::Guard,
    http1::{self, Switched},
    net::{self, Copied},
    upstream::Lease,
};

/// The client's side of a request that asks for an upgrade.
pub(super) enum Client {
    /// Its connection.
    Connection(http1::OnUpgrade),
    /// A stream of one that speaks HTTP/2.
    Stream(OnUpgrade),
}

/// The endpoint's side of an upgraded request.
pub(super) enum Endpoint {
    /// Its connection.
    Switched(Box<Switched>),
    /// A stream of one that speaks HTTP/2.
    Stream(OnUpgrade),
}

/// One side of an upgraded request, once both have agreed.
type Side = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Client {
    /// Takes what the request holds of it.
    pub(super) fn of<B>(request: &mut Request<B>) -> Self {
        match request.extensions_mut().remove() {
            Some(connection) => Self::Connection(connection),
            None => Self::Stream(hyper::upgrade::on(request)),
        }
    }

    async fn agreed(self) -> Option<Side> {
        match self {
            Self::Connection(connection) => Some(Box::new(connection.switched().await?)),
            Self::Stream(stream) => over_stream(stream).await,
        }
    }
}

impl Endpoint {
    async fn agreed(self) -> Option<Side> {
        match self {
            Self::Switched(connection) => Some(connection),
            Self::Stream(stream) => over_stream(stream).await,
        }
    }
}

async fn over_stream(stream: OnUpgrade) -> Option<Side> {
    Some(Box::new(TokioIo::new(stream.await.ok()?)))
}

/// Copies between the two sides of an upgraded request until both are done, or until it is `revoked`.
pub(super) async fn splice(
    client: Client,
    endpoint: Endpoint,
    idle_timeout: Option<Duration>,
    revoked: impl Future<Output = ()>,
    lease: Option<Lease>,
    guard: Guard,
) {
    let (Some(mut client), Some(mut endpoint)) = (client.agreed().await, endpoint.agreed().await) else {
        tracing::debug!("an upgrade was agreed on but did not happen");
        return;
    };
    let mut copied = Copied::default();
    let copying = net::copy(&mut client, &mut endpoint, idle_timeout, &mut copied);
    match unless(revoked, copying).await {
        Some(result) => {
            tracing::debug!(sent = copied.sent, received = copied.received, error = ?result.err(), "an upgraded connection ended");
        }
        None => {
            tracing::info!("an upgraded connection was closed: a changed policy does not allow it any more");
        }
    }
    drop((lease, guard));
}

/// What comes of `copying`, or nothing if it is revoked first.
async fn unless<T>(revoked: impl Future<Output = ()>, copying: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        result = copying => Some(result),
        () = revoked => None,
    }
}
