//! The moments after a cluster has lost its last endpoint.
//!
//! Who moves a service elsewhere takes the old endpoints away and changes the routes at the same time, but the two
//! are told apart: what comes in between is half of the change. Requests wait then, for a little while, for the rest.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Requests to a cluster that has lost its last endpoint wait for so long at the most.
pub(super) const LULL: Duration = Duration::from_secs(1);

/// Whether any cluster has lost its last endpoint just now; looked at for every request.
#[derive(Debug)]
pub(super) struct Lull {
    start: Instant,
    /// Milliseconds after the start.
    until: AtomicU64,
}

impl Default for Lull {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            until: AtomicU64::new(0),
        }
    }
}

impl Lull {
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn begin(&self, now: Instant) {
        self.until.fetch_max(self.millis(now + LULL), Ordering::Release);
    }

    pub(super) fn is_on(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until > 0 && self.millis(Instant::now()) < until
    }
}
