//! Requests that are answered together, so that as many are under way at a time in every run.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// The longest that a request waits for others, of which there may be too few.
const ALONE: Duration = Duration::from_secs(1);

/// Where the requests of one thread wait until they are many enough.
pub(crate) struct Together {
    all: usize,
    waiting: AtomicUsize,
    go: Notify,
}

impl Together {
    pub(crate) fn new(all: usize) -> Self {
        Self {
            all,
            waiting: AtomicUsize::new(0),
            go: Notify::new(),
        }
    }

    /// Returns when all wait, or no more come.
    pub(crate) async fn wait(&self) {
        let go = self.go.notified();
        if self.waiting.fetch_add(1, Ordering::Relaxed) + 1 >= self.all {
            self.waiting.store(0, Ordering::Relaxed);
            self.go.notify_waiters();
        } else if timeout(ALONE, go).await.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn the_last_has_all_go_on() {
        let together = Together::new(3);
        let waits = join_all((0..6).map(|_| together.wait()));
        timeout(ALONE / 2, waits).await.unwrap();
        assert!(timeout(ALONE / 2, together.wait()).await.is_err());
    }
}
