//! A token bucket, as Envoy's local rate limits use it. Pure: time is passed in.

use std::time::{Duration, Instant};

/// How large a bucket is and how it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bucket size.
    pub max_tokens: u32,
    /// Tokens added at each fill.
    pub tokens_per_fill: u32,
    /// Time between fills.
    pub fill_interval: Duration,
}

/// A bucket, full at first.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    settings: Settings,
    tokens: u32,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            tokens: settings.max_tokens,
            filled: now,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }

    fn fill(&mut self, now: Instant) {
        let interval = self.settings.fill_interval.max(Duration::from_nanos(1));
        let elapsed = now.saturating_duration_since(self.filled);
        let fills = u32::try_from(elapsed.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        if fills == 0 {
            return;
        }
        let added = self.settings.tokens_per_fill.saturating_mul(fills);
        self.tokens = self.tokens.saturating_add(added).min(self.settings.max_tokens);
        // The part of an interval that has passed counts for the next fill.
        let passed = interval.checked_mul(fills);
        self.filled = passed
            .and_then(|passed| self.filled.checked_add(passed))
            .unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_in_steps() {
        let start = Instant::now();
        let settings = Settings {
            max_tokens: 2,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(1),
        };
        let mut bucket = TokenBucket::new(settings, start);
        let mut at = |milliseconds| bucket.take(start + Duration::from_millis(milliseconds));
        assert_eq!([at(0), at(0), at(0), at(999)], [true, true, false, false]);
        assert_eq!(
            [at(1500), at(1999), at(2000), at(2000)],
            [true, false, true, false]
        );
        assert_eq!([at(60_000), at(60_000), at(60_000)], [true, true, false]);
    }
}
