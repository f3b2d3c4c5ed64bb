//! Ejection of endpoints that fail in a row, as Envoy's outlier detection does for `consecutive_5xx`.

use std::time::{Duration, Instant};

use crate::model::OutlierDetection;

/// How many may be ejected at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Endpoints in the cluster.
    pub endpoints: usize,
    /// Of these, ejected now.
    pub ejected: usize,
}

impl Limits {
    /// Whether one more may be. One always may, as in Envoy, except the only endpoint.
    fn allow(self, settings: &OutlierDetection) -> bool {
        if self.ejected == 0 {
            return self.endpoints > 1 && settings.max_ejection_percent > 0;
        }
        let percent = u64::from(settings.max_ejection_percent);
        (self.ejected as u64 + 1) * 100 <= self.endpoints as u64 * percent
    }
}

/// The record of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ejection {
    failures: u32,
    /// Ejections so far, less those forgiven.
    times: u32,
    until: Option<Instant>,
    /// When `times` was last changed.
    changed: Option<Instant>,
}

impl Ejection {
    /// Whether it is left out at `now`.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Takes in one result: `failed` for a 5xx or a failed connection. Says whether this ejects the endpoint. The
    /// n-th ejection lasts n times the base time, up to the maximum.
    pub fn record(
        &mut self,
        failed: bool,
        limits: Limits,
        settings: &OutlierDetection,
        now: Instant,
    ) -> bool {
        self.forgive(settings, now);
        if !failed {
            self.failures = 0;
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let due = settings.consecutive_5xx > 0 && self.failures >= settings.consecutive_5xx;
        if !due || self.is_ejected(now) || !limits.allow(settings) {
            return false;
        }
        self.failures = 0;
        self.times = self.times.saturating_add(1);
        let longest = settings.max_ejection_time.max(settings.base_ejection_time);
        let time = settings
            .base_ejection_time
            .saturating_mul(self.times)
            .min(longest);
        self.until = now.checked_add(time);
        self.changed = self.until;
        true
    }

    /// One past ejection is forgotten for each base time spent in use.
    fn forgive(&mut self, settings: &OutlierDetection, now: Instant) {
        let step = settings.base_ejection_time.max(Duration::from_millis(1));
        let Some(changed) = self.changed.filter(|changed| now > *changed) else {
            return;
        };
        let steps = now.saturating_duration_since(changed).as_nanos() / step.as_nanos();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if steps > 0 {
            self.times = self.times.saturating_sub(steps);
            self.changed = (self.times > 0).then_some(now);
        }
    }
}
