//! A latency average that follows rises at once and forgets them slowly.

use std::time::{Duration, Instant};

/// An exponentially weighted moving average of latencies, sensitive to peaks: a slower response than the average
/// replaces it, faster ones lower it over the decay time.
#[derive(Clone, Copy, Debug)]
pub struct Ewma {
    milliseconds: f64,
    updated: Instant,
    decay: Duration,
}

impl Ewma {
    /// Begins at `initial`; a peak has lost 63 % of its weight after `decay`.
    pub fn new(initial: Duration, decay: Duration, now: Instant) -> Self {
        Self {
            milliseconds: initial.as_secs_f64() * 1000.0,
            updated: now,
            decay,
        }
    }

    /// Takes in the latency of one response.
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64() * 1000.0;
        if latency >= self.milliseconds {
            self.milliseconds = latency;
        } else {
            let kept = self.kept(now);
            self.milliseconds = self.milliseconds * kept + latency * (1.0 - kept);
        }
        self.updated = self.updated.max(now);
    }

    /// The average in milliseconds at `now`; it sinks while nothing is observed, so that an endpoint once slow is
    /// tried again.
    pub fn milliseconds(&self, now: Instant) -> f64 {
        self.milliseconds * self.kept(now)
    }

    fn kept(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        (-elapsed / self.decay.as_secs_f64().max(f64::MIN_POSITIVE)).exp()
    }
}
