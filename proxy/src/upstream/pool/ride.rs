//! One request's part of a connection that others share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::http2::Client;

/// What is counted of a connection.
#[derive(Default)]
pub(super) struct Tally {
    /// Requests whose responses were not read to their ends.
    pub(super) requests: AtomicUsize,
    /// When the last request or response began. In milliseconds since its endpoint was known.
    pub(super) used: AtomicU64,
}

/// One request's part of a connection.
pub(super) struct Ride {
    pub(super) client: Client,
    pub(super) load: Load,
}

/// Counts as one request on its connection while it lives.
pub(super) struct Load(Arc<Tally>);

impl Load {
    pub(super) fn new(tally: Arc<Tally>, now: u64) -> Self {
        tally.requests.fetch_add(1, Ordering::Relaxed);
        tally.used.store(now, Ordering::Relaxed);
        Self(tally)
    }

    /// Its response has begun.
    pub(super) fn answered(&self, now: u64) {
        self.0.used.store(now, Ordering::Relaxed);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
