//! How often something may happen: a burst at once, and then evenly.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Names that are kept before the first look for those that need not be.
const FIRST_SWEEP: usize = 1024;

/// A burst, and what may follow it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// So many at once.
    pub(super) burst: u32,
    /// One more each time this has passed.
    pub(super) interval: Duration,
}

/// How far something is ahead of its rate.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    /// When all that happened would have, had it come evenly.
    even: Instant,
}

impl Pace {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, even: now }
    }

    /// It happened.
    pub(super) fn took(&mut self, now: Instant) {
        self.even = self.even.max(now) + self.rate.interval;
    }

    /// When it may happen next.
    pub(super) fn ready(&self) -> Instant {
        let ahead = self.rate.interval * self.rate.burst.saturating_sub(1);
        self.even.checked_sub(ahead).unwrap_or(self.even)
    }
}

/// The paces of many, each under its name. A name is forgotten once it is as good as new.
#[derive(Debug)]
pub(super) struct Paces {
    rate: Rate,
    named: Mutex<Named>,
}

#[derive(Debug)]
struct Named {
    by_name: HashMap<Arc<str>, Entry>,
    /// Forget when there are so many.
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    pace: Pace,
    /// Gives the place of the one that waits to a newer one.
    waits: Option<CancellationToken>,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// There was none.
    AtOnce,
    /// It is over.
    Late,
    /// A newer one of the name waits instead.
    Displaced,
}

impl Paces {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            named: Mutex::new(Named {
                by_name: HashMap::new(),
                sweep_at: FIRST_SWEEP,
            }),
        }
    }

    /// Waits until one more of this name may go on. Of each name one waits.
    pub(super) async fn pass(&self, name: &str) -> Passed {
        let Some((ready, mine)) = self.begin(name, Instant::now()) else {
            return Passed::AtOnce;
        };
        tokio::select! {
            biased;
            () = mine.cancelled() => return Passed::Displaced,
            () = sleep_until(ready) => {}
        }
        match self.named.lock().by_name.get_mut(name) {
            // Taken between the end of the wait and the lock.
            Some(_) if mine.is_cancelled() => Passed::Displaced,
            Some(entry) => {
                entry.waits = None;
                entry.pace.took(Instant::now());
                Passed::Late
            }
            None => Passed::Late,
        }
    }

    /// `None`: it may go on now.
    fn begin(&self, name: &str, now: Instant) -> Option<(Instant, CancellationToken)> {
        let mut named = self.named.lock();
        named.sweep(now);
        if !named.by_name.contains_key(name) {
            let entry = Entry {
                pace: Pace::new(self.rate, now),
                waits: None,
            };
            named.by_name.insert(name.into(), entry);
        }
        let entry = named.by_name.get_mut(name)?;
        let ready = entry.pace.ready();
        if let Some(older) = entry.waits.take() {
            older.cancel();
        }
        if ready <= now {
            entry.pace.took(now);
            return None;
        }
        let mine = CancellationToken::new();
        entry.waits = Some(mine.clone());
        Some((ready, mine))
    }
}

impl Named {
    fn sweep(&mut self, now: Instant) {
        if self.by_name.len() < self.sweep_at {
            return;
        }
        self.by_name.retain(|_, entry| entry.pace.even > now);
        self.sweep_at = FIRST_SWEEP.max(self.by_name.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        interval: Duration::from_secs(1),
    };

    #[test]
    fn a_burst_passes_at_once_and_the_rest_evenly() {
        let start = Instant::now();
        let mut pace = Pace::new(RATE, start);
        for _ in 0..RATE.burst {
            assert!(pace.ready() <= start);
            pace.took(start);
        }
        assert_eq!(pace.ready(), start + RATE.interval);
        pace.took(start + RATE.interval);
        assert_eq!(pace.ready(), start + RATE.interval * 2);
        let later = start + Duration::from_secs(3600);
        pace.took(later);
        assert!(pace.ready() < later);
    }

    #[tokio::test]
    async fn of_each_name_the_newest_waits() {
        let rate = Rate {
            burst: 3,
            interval: Duration::from_millis(100),
        };
        let paces = Arc::new(Paces::new(rate));
        let begun = Instant::now();
        for _ in 0..rate.burst {
            assert_eq!(paces.pass("a").await, Passed::AtOnce);
        }
        let (_, older) = paces.begin("a", begun).unwrap();
        let newer = paces.pass("a");
        assert_eq!(paces.pass("b").await, Passed::AtOnce);
        assert!(!older.is_cancelled());
        assert_eq!(newer.await, Passed::Late);
        assert!(older.is_cancelled());
        assert!(begun.elapsed() >= rate.interval);
        assert_eq!(paces.pass("a").await, Passed::Late);
        assert!(begun.elapsed() >= rate.interval * 2);
    }

    #[test]
    fn names_are_forgotten() {
        let paces = Paces::new(RATE);
        let mut now = Instant::now();
        for name in 0..FIRST_SWEEP * 4 {
            assert!(paces.begin(&name.to_string(), now).is_none());
            now += Duration::from_millis(10);
        }
        assert!(paces.named.lock().by_name.len() <= FIRST_SWEEP);
    }
}
