//! How many connections to an endpoint there are, and whether there may be one more.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    super::{
        Endpoint,
        usage::{Kind, Permit},
    },
    Pool,
};

/// Counts as one open connection while it lives.
pub(super) struct Open {
    endpoint: Arc<AtomicUsize>,
    _cluster: Permit,
}

impl Open {
    pub(super) fn new(pool: &Pool, cluster: Permit) -> Self {
        pool.open.fetch_add(1, Ordering::AcqRel);
        Self {
            endpoint: pool.open.clone(),
            _cluster: cluster,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.endpoint.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Endpoint {
    /// Room for one more connection; `None` when the cluster has as many as it may. Each endpoint may have one
    /// whatever the others hold, so that none is cut off.
    pub(super) fn admit(&self) -> Option<Open> {
        let limits = &self.cluster().limits;
        let permit = match self.usage.take(Kind::Connections, limits) {
            Ok(permit) => permit,
            Err(_) if self.pool.open.load(Ordering::Acquire) == 0 => {
                self.usage.take_anyway(Kind::Connections, limits)
            }
            Err(_) => return None,
        };
        Some(Open::new(&self.pool, permit))
    }

    /// Waits for room for one more connection.
    pub(super) async fn room(&self) -> Open {
        loop {
            let mut freed = pin!(self.usage.freed.notified());
            freed.as_mut().enable();
            if let Some(open) = self.admit() {
                return open;
            }
            freed.await;
        }
    }
}
