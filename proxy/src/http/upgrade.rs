//! Connections that stop being HTTP: after the switch bytes are copied as they are.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    drain::Guard,
    net::{self, Copied},
    upstream::Lease,
};

/// Copies between the two sides of an upgraded request until both are done, or until it is `revoked`.
pub(super) async fn splice(
    client: OnUpgrade,
    endpoint: OnUpgrade,
    idle_timeout: Option<Duration>,
    revoked: impl Future<Output = ()>,
    lease: Option<Lease>,
    guard: Guard,
) {
    let (client, endpoint) = match tokio::try_join!(client, endpoint) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was agreed on but did not happen");
            return;
        }
    };
    let mut copied = Copied::default();
    let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
    let result = tokio::select! {
        result = net::copy(&mut client, &mut endpoint, idle_timeout, &mut copied) => result,
        () = revoked => {
            tracing::info!("an upgraded connection was closed: a changed policy does not allow it any more");
            return;
        }
    };
    tracing::debug!(sent = copied.sent, received = copied.received, error = ?result.err(), "an upgraded connection ended");
    drop((lease, guard));
}
