//! When to renew and when to try again. Pure: chance is passed in, between 0 and 1.

use std::time::Duration;

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The shortest wait before a renewal, whatever the validity.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// How long a certificate that is valid for another `remaining` is kept: half of it, give or take 10 %, so that
/// proxies started together do not renew together.
pub(super) fn renewal(remaining: Duration, chance: f64) -> Duration {
    remaining.mul_f64(0.5 * (0.9 + 0.2 * chance)).max(SHORTEST_WAIT)
}

/// The pause after this many failures in a row, at least one: doubling, of which half is left to chance.
pub(super) fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled.min(LONGEST_PAUSE).mul_f64(0.5 + 0.5 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_around_half_life() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(renewal(day, 0.5), day / 2);
        assert!(renewal(day, 0.0) >= day.mul_f64(0.449));
        assert!(renewal(day, 1.0) <= day.mul_f64(0.551));
        assert_eq!(renewal(Duration::ZERO, 0.5), SHORTEST_WAIT);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(2, 1.0), 2 * FIRST_PAUSE);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, 0.0), LONGEST_PAUSE / 2);
    }
}
