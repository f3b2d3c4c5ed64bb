//! Whether and when a request is sent again, as Envoy's retry policies say. Pure.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::model::{Retry, RetryOn};

/// Why there was no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or no TLS over it.
    Connect,
    /// The connection broke, or the endpoint did not answer in time.
    Reset,
    /// The endpoint says that it did not look at the request.
    RefusedStream,
}

/// Whether a response is to be replaced by that of another try.
pub fn on_response(policy: &Retry, status: StatusCode, headers: &HeaderMap) -> bool {
    let grpc = headers
        .get("grpc-status")
        .and_then(|status| status.to_str().ok()?.parse().ok());
    policy.on.iter().any(|on| match on {
        RetryOn::ServerError => status.is_server_error(),
        RetryOn::GatewayError => matches!(status.as_u16(), 502..=504),
        RetryOn::Conflict => status == StatusCode::CONFLICT,
        RetryOn::StatusCodes => policy.status_codes.contains(&status.as_u16()),
        RetryOn::Grpc(code) => grpc == Some(*code),
        RetryOn::Reset | RetryOn::ConnectFailure | RetryOn::RefusedStream => false,
    })
}

/// Whether a request without a response is to be tried again.
pub fn on_failure(policy: &Retry, failure: Failure) -> bool {
    policy.on.iter().any(|on| match on {
        RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset => true,
        RetryOn::ConnectFailure => failure == Failure::Connect,
        RetryOn::RefusedStream => failure == Failure::RefusedStream,
        RetryOn::Conflict | RetryOn::StatusCodes | RetryOn::Grpc(_) => false,
    })
}

/// The pause before the `n`-th retry (from 1): of any length up to one that doubles each time, so that clients
/// that failed together do not come back together. `random` is uniform over all values.
pub fn pause(policy: &Retry, n: u32, random: u64) -> Duration {
    let doubled = 1u32.checked_shl(n).map_or(u32::MAX, |power| power - 1);
    let longest = policy
        .base_interval
        .saturating_mul(doubled)
        .min(policy.max_interval);
    let nanoseconds = (u128::from(random) * longest.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[RetryOn]) -> Retry {
        Retry {
            on: on.to_vec(),
            num_retries: 3,
            per_try_timeout: None,
            status_codes: vec![418],
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
        }
    }

    #[test]
    fn responses_are_judged_by_their_status() {
        let retried = |on, status, grpc: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(grpc) = grpc {
                headers.insert("grpc-status", http::HeaderValue::from_static(grpc));
            }
            on_response(&policy(&[on]), StatusCode::from_u16(status).unwrap(), &headers)
        };
        for (on, status, wanted) in [
            (RetryOn::ServerError, 500, true),
            (RetryOn::ServerError, 404, false),
            (RetryOn::GatewayError, 500, false),
            (RetryOn::GatewayError, 503, true),
            (RetryOn::Conflict, 409, true),
            (RetryOn::Conflict, 400, false),
            (RetryOn::StatusCodes, 418, true),
            (RetryOn::Reset, 503, false),
        ] {
            assert_eq!(retried(on, status, None), wanted, "{on:?} {status}");
        }
        assert!(retried(RetryOn::Grpc(14), 200, Some("14")));
        assert!(!retried(RetryOn::Grpc(14), 200, Some("0")));
    }

    #[test]
    fn failures_are_judged_by_their_kind() {
        use Failure::{Connect, RefusedStream, Reset};
        for (on, failures) in [
            (RetryOn::ServerError, [true; 3]),
            (RetryOn::Reset, [true; 3]),
            (RetryOn::ConnectFailure, [true, false, false]),
            (RetryOn::RefusedStream, [false, false, true]),
            (RetryOn::StatusCodes, [false; 3]),
        ] {
            let judged = [Connect, Reset, RefusedStream].map(|failure| on_failure(&policy(&[on]), failure));
            assert_eq!(judged, failures, "{on:?}");
        }
    }

    #[test]
    fn pauses_grow_to_the_longest() {
        let policy = policy(&[]);
        assert_eq!(pause(&policy, 1, 0), Duration::ZERO);
        let longest = |n| pause(&policy, n, u64::MAX).as_millis();
        assert_eq!([1, 2, 3].map(longest), [24, 74, 174]);
        assert_eq!([4, 31, 32, 1000].map(longest), [249; 4]);
    }
}
