//! Circuit breaking: how much of a cluster is used at a time, against its [`Limits`].

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::Notify;

use crate::model::Limits;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Connections to all endpoints together.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests, waiting or under way.
    Requests,
    /// Requests sent again, of these.
    Retries,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker of the cluster allows no more {0} at a time; are its limits meant so?")]
pub struct Overflow(&'static str);

/// How much of a cluster is used. What has no limit is not counted.
#[derive(Debug, Default)]
pub(super) struct Usage {
    used: [AtomicU32; 4],
    /// A connection was given back or closed.
    pub(super) freed: Notify,
}

/// Counts as one while it lives.
#[derive(Debug)]
pub(super) struct Permit(Option<(Arc<Usage>, Kind)>);

impl Kind {
    fn limit(self, limits: &Limits) -> Option<u32> {
        match self {
            Self::Connections => limits.connections,
            Self::Pending => limits.pending_requests,
            Self::Requests => limits.requests,
            Self::Retries => limits.retries,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending requests",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

impl Usage {
    /// Takes one more within the limits.
    pub(super) fn take(self: &Arc<Self>, kind: Kind, limits: &Limits) -> Result<Permit, Overflow> {
        let Some(limit) = kind.limit(limits) else {
            return Ok(Permit(None));
        };
        let one_more = |used: u32| (used < limit).then(|| used + 1);
        self.used[kind as usize]
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .map_err(|_| Overflow(kind.as_str()))?;
        Ok(Permit(Some((self.clone(), kind))))
    }

    /// Takes one more whatever the limits say.
    pub(super) fn take_anyway(self: &Arc<Self>, kind: Kind, limits: &Limits) -> Permit {
        if kind.limit(limits).is_none() {
            return Permit(None);
        }
        self.used[kind as usize].fetch_add(1, Ordering::AcqRel);
        Permit(Some((self.clone(), kind)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some((usage, kind)) = &self.0 else {
            return;
        };
        usage.used[*kind as usize].fetch_sub(1, Ordering::AcqRel);
        if *kind == Kind::Connections {
            usage.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_until_something_is_given_back() {
        let usage = Arc::<Usage>::default();
        let limits = Limits {
            requests: Some(2),
            ..Limits::default()
        };
        let first = usage.take(Kind::Requests, &limits).unwrap();
        let _second = usage.take(Kind::Requests, &limits).unwrap();
        let third = usage.take(Kind::Requests, &limits).unwrap_err();
        assert!(third.to_string().contains("no more requests"));
        assert!(usage.take(Kind::Connections, &limits).is_ok());
        drop(first);
        let _third = usage.take(Kind::Requests, &limits).unwrap();
        let over = usage.take_anyway(Kind::Requests, &limits);
        drop(over);
        assert!(usage.take(Kind::Requests, &limits).is_err());
    }
}
