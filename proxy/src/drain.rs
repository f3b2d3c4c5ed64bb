//! Shutting down in stages, and who is still busy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::model::Direction;

/// How long nothing must be open before the proxy takes the pod for finished: an application that is shutting
/// down may be between two connections.
const QUIET: Duration = Duration::from_millis(500);

/// Kept inbound connections go on for this long: a request may be on its way over one, and whoever hears that the pod
/// is gone closes it. One that carried a request meanwhile was told to close.
const LINGER: Duration = Duration::from_secs(3);

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    #[default]
    Running,
    /// Not ready any more. Inbound ends each connection after its request, and still takes those of clients that have
    /// not heard of it; outbound serves on, the application needs it.
    Draining,
    /// Nothing new is taken; everything finishes what runs.
    Closing,
}

/// The shutdown, as everyone sees it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    stage: watch::Sender<Stage>,
    open: AtomicUsize,
    closed: Notify,
}

/// Something that the shutdown waits for while it lives.
pub struct Guard {
    inner: Arc<Inner>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.inner.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.closed.notify_waiters();
        }
    }
}

impl Drain {
    /// Makes the shutdown wait for the caller.
    pub fn guard(&self) -> Guard {
        self.inner.open.fetch_add(1, Ordering::AcqRel);
        Guard {
            inner: self.inner.clone(),
        }
    }

    /// Connections open.
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Acquire)
    }

    /// How far the shutdown is.
    pub fn stage(&self) -> Stage {
        *self.inner.stage.borrow()
    }

    /// Waits until connections of this direction should finish.
    pub async fn finishing(&self, direction: Direction) {
        self.reached(match direction {
            Direction::Outbound => Stage::Closing,
            Direction::Inbound | Direction::Unspecified => Stage::Draining,
        })
        .await;
    }

    /// Waits until connections of this direction should finish on which a request may arrive unasked for.
    pub async fn cutting(&self, direction: Direction) {
        self.finishing(direction).await;
        tokio::select! {
            () = sleep(LINGER) => {}
            () = self.closing() => {}
        }
    }

    /// Waits until no new connections are taken.
    pub async fn closing(&self) {
        self.reached(Stage::Closing).await;
    }

    async fn reached(&self, at: Stage) {
        let mut stage = self.inner.stage.subscribe();
        // The sender lives as long as `self`.
        let _ = stage.wait_for(|stage| *stage >= at).await;
    }

    /// Begins to drain without ending: what the admin's `drain_listeners` asks for.
    pub fn begin(&self) {
        self.advance(Stage::Draining);
    }

    /// Drains: gives inbound and outbound `limit` together, and returns as soon as nothing is open.
    pub async fn run(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.advance(Stage::Draining);
        // A quarter is kept for outbound connections that the application holds open without using them.
        if timeout_at(Instant::now() + limit * 3 / 4, self.quiet())
            .await
            .is_ok()
        {
            return;
        }
        self.advance(Stage::Closing);
        if timeout_at(deadline, self.quiet()).await.is_err() {
            tracing::warn!(
                open = self.open(),
                "drain time is over; closing what is still open"
            );
        }
    }

    fn advance(&self, to: Stage) {
        self.inner.stage.send_if_modified(|stage| {
            let later = to > *stage;
            *stage = to.max(*stage);
            later
        });
    }

    /// Returns when nothing was open for [`QUIET`].
    async fn quiet(&self) {
        loop {
            let closed = self.inner.closed.notified();
            if self.open() > 0 {
                closed.await;
            }
            sleep(QUIET).await;
            if self.open() == 0 {
                return;
            }
        }
    }
}
