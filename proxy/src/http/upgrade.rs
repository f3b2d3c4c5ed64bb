//! Connections that stop being HTTP: after the switch bytes are copied as they are.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    drain::Guard,
    http1::Switched,
    net::{self, Copied},
    upstream::Lease,
};

/// The endpoint's side of an upgraded request.
pub(super) enum Endpoint {
    /// Its connection.
    Switched(Box<Switched>),
    /// A stream of one that speaks HTTP/2.
    Stream(OnUpgrade),
}

/// Copies between the two sides of an upgraded request until both are done, or until it is `revoked`.
pub(super) async fn splice(
    client: OnUpgrade,
    endpoint: Endpoint,
    idle_timeout: Option<Duration>,
    revoked: impl Future<Output = ()>,
    lease: Option<Lease>,
    guard: Guard,
) {
    let mut client = match client.await {
        Ok(client) => TokioIo::new(client),
        Err(error) => return not_done(&error),
    };
    let mut copied = Copied::default();
    let result = match endpoint {
        Endpoint::Switched(mut endpoint) => {
            let copying = net::copy(&mut client, &mut *endpoint, idle_timeout, &mut copied);
            unless(revoked, copying).await
        }
        Endpoint::Stream(endpoint) => match endpoint.await {
            Ok(endpoint) => {
                let mut endpoint = TokioIo::new(endpoint);
                let copying = net::copy(&mut client, &mut endpoint, idle_timeout, &mut copied);
                unless(revoked, copying).await
            }
            Err(error) => return not_done(&error),
        },
    };
    match result {
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

fn not_done(error: &hyper::Error) {
    tracing::debug!(%error, "an upgrade was agreed on but did not happen");
}
