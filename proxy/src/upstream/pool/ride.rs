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
    /// Responses that have not begun.
    pub(super) due: AtomicUsize,
    /// When the last response began, or the first was due. In milliseconds since its endpoint was known.
    pub(super) heard: AtomicU64,
}

/// One request's part of a connection.
pub(super) struct Ride {
    pub(super) client: Client,
    pub(super) load: Load,
}

/// Counts as one request on its connection while it lives.
pub(super) struct Load {
    tally: Arc<Tally>,
    due: bool,
}

impl Load {
    pub(super) fn new(tally: Arc<Tally>, now: u64) -> Self {
        tally.requests.fetch_add(1, Ordering::Relaxed);
        if tally.due.fetch_add(1, Ordering::Relaxed) == 0 {
            tally.heard.store(now, Ordering::Relaxed);
        }
        Self { tally, due: true }
    }

    /// Its response has begun.
    pub(super) fn answered(&mut self, now: u64) {
        if std::mem::take(&mut self.due) {
            self.tally.due.fetch_sub(1, Ordering::Relaxed);
            self.tally.heard.store(now, Ordering::Relaxed);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tally.requests.fetch_sub(1, Ordering::Relaxed);
        if self.due {
            self.tally.due.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
