//! The services that a pod uses, and for how long they are followed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    assemble::{Assembly, Standing},
    context::Context,
    reason::Reason,
};

/// How long a connection to an address seen for the first time waits for the control plane's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Connections that wait for an answer at a time; more are refused.
pub(super) const WAITING: usize = 1024;
/// Addresses followed at a time; connections to more are refused. An application that scans the network would
/// otherwise fill this proxy's memory and its stream from the control plane, which takes 10,000 names. Those idle
/// stay subscribed for a while, so it is less than half of that.
pub(super) const FOLLOWED: usize = 4096;
/// The longest pause between two looks for idle services.
const LOOK: Duration = Duration::from_secs(15);

/// The services that the pod uses, by address.
pub struct Services {
    pub(super) context: Arc<Context>,
    idle: Duration,
    waiting: Semaphore,
    pub(super) known: Mutex<HashMap<SocketAddr, Service>>,
}

pub(super) struct Service {
    assembly: Arc<Assembly>,
    used: Instant,
    complained: bool,
}

impl Services {
    /// None yet. Each is followed for `idle` after its last connection.
    pub fn new(context: Arc<Context>, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            context,
            idle,
            waiting: Semaphore::new(WAITING),
            known: Mutex::default(),
        })
    }

    /// The listener named by an address, followed from now on; `None` when too many are.
    pub(super) fn find(&self, address: SocketAddr, now: Instant) -> Option<Arc<Assembly>> {
        let mut known = self.known.lock();
        if known.len() >= FOLLOWED && !known.contains_key(&address) {
            return None;
        }
        let service = known.entry(address).or_insert_with(|| Service {
            assembly: self.context.assemble(&address.to_string()),
            used: now,
            complained: false,
        });
        service.used = now;
        Some(service.assembly.clone())
    }

    /// Whether there is a service at an address; waits until the control plane has said.
    ///
    /// # Errors
    /// With the reason when it does not say in time, or too many wait. What is not known to be outside the mesh is
    /// not passed through: it may be a service that wants mTLS.
    pub(super) async fn is_one(&self, address: SocketAddr, service: &Assembly) -> Result<bool, Reason> {
        if !self.context.control_plane {
            return Ok(false);
        }
        let mut standing = service.standing();
        if matches!(standing, Standing::Pending) {
            let Ok(_waiting) = self.waiting.try_acquire() else {
                tracing::warn!(%address, "refused: {WAITING} connections wait for the control plane already");
                return Err(Reason::Overflow);
            };
            let answered = timeout(ANSWER, service.answered()).await;
            standing = answered.unwrap_or(Standing::Pending);
        }
        match standing {
            Standing::Ready(_) => Ok(true),
            Standing::Absent => Ok(false),
            Standing::Pending => {
                self.complain(address);
                Err(Reason::ControlPlaneSilent)
            }
        }
    }

    /// Says why an address is refused that the control plane said nothing about, once while it is in use: as an
    /// error, since sidecars log nothing less by default.
    fn complain(&self, address: SocketAddr) {
        let mut known = self.known.lock();
        let first = known
            .get_mut(&address)
            .is_none_or(|service| !std::mem::replace(&mut service.complained, true));
        drop(known);
        if !first {
            return;
        }
        let stream = &self.context.stream;
        let (connected, error) = (stream.connected(), stream.last_error());
        tracing::error!(
            %address, connected, error,
            "refused: the control plane did not say within {ANSWER:?} whether this is a service of the mesh, and \
             passing it through could bypass mTLS; is weir-controller up and reachable?"
        );
    }

    /// Forgets services without a connection for a while, again and again.
    pub async fn expire(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK.min(self.idle / 4)).await;
            self.forget_idle(Instant::now());
        }
    }

    /// Forgets what was not used for long. What has an answer is kept while there is nobody to ask for it again.
    pub(super) fn forget_idle(&self, now: Instant) {
        let can_ask = self.context.stream.connected();
        self.known.lock().retain(|_, service| {
            if Arc::strong_count(&service.assembly) > 1 {
                service.used = now;
            }
            let kept = !can_ask && !matches!(service.assembly.standing(), Standing::Pending);
            kept || now.duration_since(service.used) < self.idle
        });
    }
}
