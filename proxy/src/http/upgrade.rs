//! Connections that stop being HTTP: after the switch bytes are copied as they are.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    drain::Guard,
    net::{self, Copied},
    upstream::Lease,
};

/// Copies between the two sides of an upgraded request until both are done.
pub(super) async fn splice(
    client: OnUpgrade,
    endpoint: OnUpgrade,
    idle_timeout: Option<Duration>,
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
    let result = net::copy(
        &mut TokioIo::new(client),
        &mut TokioIo::new(endpoint),
        idle_timeout,
        &mut copied,
    )
    .await;
    tracing::debug!(sent = copied.sent, received = copied.received, error = ?result.err(), "an upgraded connection ended");
    drop((lease, guard));
}
