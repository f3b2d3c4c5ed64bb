//! The moments after a cluster has lost its last endpoint.
//!
//! Who moves a service elsewhere takes the old endpoints away and changes the routes at the same time, but the two
//! are told apart: what comes in between is half of the change. Requests wait then, for a little while, for the rest.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::Upstream;
use crate::reason::Reason;

/// Requests to a cluster that has lost its last endpoint wait for so long at the most.
const LULL: Duration = Duration::from_secs(1);

/// A cluster has no endpoint to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Why.
    pub reason: Reason,
    /// Until when to wait, since it has lost the last one just now; `None`: there is nothing to wait for.
    pub until: Option<Instant>,
}

impl Lack {
    /// Of a cluster that lost its last endpoint then, if it ever had one.
    pub(super) fn since(emptied: Option<Instant>, reason: Reason) -> Self {
        let until = emptied.map(|emptied| emptied + LULL);
        Self {
            reason,
            until: until.filter(|until| *until > Instant::now()),
        }
    }
}

impl Upstream {
    /// Waits for an endpoint, at most until then; says whether there is one.
    pub async fn refilled(&self, original: SocketAddr, until: Instant) -> bool {
        if self.another(original, &[], until).await.is_some() {
            return true;
        }
        sleep_until(until).await;
        false
    }
}
