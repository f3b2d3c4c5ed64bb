//! When each change has reached its subscribers.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::sync::watch;

/// Times are kept in microseconds, up to ten minutes.
const LONGEST: u64 = 600_000_000;

/// Changes under way, by service, and how long those that are done took.
pub(super) struct Board {
    slots: Vec<Mutex<Option<Change>>>,
    done: Mutex<Done>,
    open: watch::Sender<usize>,
}

/// A change of a service's endpoints, on its way.
struct Change {
    since: Instant,
    /// How many endpoints the service has since.
    endpoints: usize,
    /// Subscribers that do not have it.
    missing: usize,
}

struct Done {
    to_last: Histogram<u64>,
    to_each: Histogram<u64>,
}

/// Times of changes that are done.
#[derive(Clone)]
pub(super) struct Times {
    /// From the change to its last subscriber, in microseconds.
    pub(super) to_last: Histogram<u64>,
    /// From the change to each subscriber, in microseconds.
    pub(super) to_each: Histogram<u64>,
}

impl Board {
    /// For so many services.
    ///
    /// # Errors
    /// Never in practice: the histograms' bounds are constants.
    pub(super) fn new(services: usize) -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3);
        Ok(Self {
            slots: (0..services).map(|_| Mutex::new(None)).collect(),
            done: Mutex::new(Done {
                to_last: histogram()?,
                to_each: histogram()?,
            }),
            open: watch::Sender::new(0),
        })
    }

    /// A change begins now, that so many subscribers are to have. `false`: an earlier one of the service is on its
    /// way still.
    pub(super) fn begin(&self, service: usize, endpoints: usize, subscribers: usize) -> bool {
        let Some(slot) = self.slots.get(service) else {
            return false;
        };
        let mut slot = lock(slot);
        if slot.is_some() {
            return false;
        }
        *slot = Some(Change {
            since: Instant::now(),
            endpoints,
            missing: subscribers,
        });
        self.open.send_modify(|open| *open += 1);
        true
    }

    /// A subscriber was sent new endpoints of a service.
    pub(super) fn received(&self, service: usize, endpoints: usize) {
        let Some(slot) = self.slots.get(service) else {
            return;
        };
        let mut slot = lock(slot);
        let Some(change) = slot.as_mut().filter(|change| change.endpoints == endpoints) else {
            return;
        };
        let took = change.since.elapsed();
        change.missing = change.missing.saturating_sub(1);
        let last = change.missing == 0;
        if last {
            *slot = None;
        }
        drop(slot);
        let took = u64::try_from(took.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        let mut done = lock(&self.done);
        done.to_each.saturating_record(took);
        if last {
            done.to_last.saturating_record(took);
            drop(done);
            self.open.send_modify(|open| *open -= 1);
        }
    }

    /// Waits until every change has reached everybody, and says how many have not by then.
    pub(super) async fn settled(&self, patience: Duration) -> usize {
        let mut open = self.open.subscribe();
        let settled = tokio::time::timeout(patience, open.wait_for(|open| *open == 0)).await;
        match settled {
            Ok(_) => 0,
            Err(_) => *self.open.borrow(),
        }
    }

    /// The times since the last call.
    pub(super) fn take(&self) -> Times {
        let mut done = lock(&self.done);
        let times = Times {
            to_last: done.to_last.clone(),
            to_each: done.to_each.clone(),
        };
        done.to_last.reset();
        done.to_each.reset();
        times
    }
}

/// A thread that panicked with the lock held has stopped the whole run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_done_when_its_last_subscriber_has_it() {
        let board = Board::new(2).unwrap();
        assert!(board.begin(1, 9, 2));
        assert!(!board.begin(1, 10, 2), "one at a time");
        board.received(1, 10);
        board.received(1, 9);
        assert_eq!(board.settled(Duration::ZERO).await, 1);
        board.received(1, 9);
        assert_eq!(board.settled(Duration::ZERO).await, 0);
        let times = board.take();
        assert_eq!((times.to_last.len(), times.to_each.len()), (1, 2));
        assert_eq!(board.take().to_last.len(), 0);
    }
}
