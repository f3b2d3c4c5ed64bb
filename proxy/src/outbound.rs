//! Connections from this pod to anywhere.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    assemble::{Assembly, Standing},
    context::Context,
    inbound, net,
    reason::Reason,
};

/// How long a connection to an address seen for the first time waits for the control plane's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// A service is followed for this long after its last connection.
const IDLE: Duration = Duration::from_secs(60);
/// Addresses followed at a time; connections to more are refused. An application that scans the network would
/// otherwise fill this proxy's memory and its stream from the control plane, which takes 10,000 names. Those idle
/// stay subscribed for a while, so it is less than half of that.
const FOLLOWED: usize = 4096;

/// The services that the pod uses, by address.
pub struct Services {
    context: Arc<Context>,
    known: Mutex<HashMap<SocketAddr, Service>>,
}

struct Service {
    assembly: Arc<Assembly>,
    used: Instant,
    warned: bool,
}

impl Services {
    /// None yet.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            known: Mutex::default(),
        })
    }

    /// The listener named by an address, followed from now on; `None` when too many are.
    fn find(&self, address: SocketAddr) -> Option<Arc<Assembly>> {
        let mut known = self.known.lock();
        if known.len() >= FOLLOWED && !known.contains_key(&address) {
            return None;
        }
        let service = known.entry(address).or_insert_with(|| Service {
            assembly: self.context.assemble(&address.to_string()),
            used: Instant::now(),
            warned: false,
        });
        Some(service.assembly.clone())
    }

    /// Says why an address is refused that the control plane said nothing about, once while it is in use.
    fn warn(&self, address: SocketAddr) {
        let mut known = self.known.lock();
        let first = known
            .get_mut(&address)
            .is_none_or(|service| !std::mem::replace(&mut service.warned, true));
        drop(known);
        if !first {
            return;
        }
        let stream = &self.context.stream;
        let (connected, error) = (stream.connected(), stream.last_error());
        tracing::warn!(
            %address, connected, error,
            "refused: the control plane did not say within {ANSWER:?} whether this is a service of the mesh, and \
             passing it through could bypass mTLS; is weir-controller up and reachable?"
        );
    }

    /// Forgets services without a connection for `IDLE`, again and again.
    pub async fn expire(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE / 4).await;
            let now = Instant::now();
            self.known.lock().retain(|_, service| {
                if Arc::strong_count(&service.assembly) > 1 {
                    service.used = now;
                }
                now.duration_since(service.used) < IDLE
            });
        }
    }
}

/// Handles one connection from its first byte to its last.
///
/// # Errors
/// With the reason when the proxy refuses it.
pub async fn handle(
    services: &Arc<Services>,
    outbound: &Arc<Assembly>,
    stream: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) -> Result<(), Reason> {
    let context = &services.context;
    if context.is_own(destination) {
        net::reset(&stream);
        return Err(Reason::Loop);
    }
    let Some(service) = services.find(destination) else {
        net::reset(&stream);
        return Err(Reason::Overflow);
    };
    let standing = if context.control_plane {
        timeout(ANSWER, service.answered())
            .await
            .unwrap_or(Standing::Pending)
    } else {
        Standing::Absent
    };
    match standing {
        Standing::Ready(_) => {
            return inbound::handle(context, &service, stream, source, destination).await;
        }
        // What is not known to be outside the mesh is not passed through: it may be a service that wants mTLS.
        Standing::Pending => {
            services.warn(destination);
            net::reset(&stream);
            return Err(Reason::UnknownDestination);
        }
        Standing::Absent => {}
    }
    drop(service);
    let handled = inbound::handle(context, outbound, stream, source, destination).await;
    handled.map_err(|reason| match reason {
        Reason::NoFilterChain => Reason::UnknownDestination,
        reason => reason,
    })
}

#[cfg(test)]
mod tests;
