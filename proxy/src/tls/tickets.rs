//! What a client keeps to resume sessions: tickets, by the endpoint that gave them.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
};
use rustls_pki_types::ServerName;

/// Tickets kept of one endpoint. Each is used once, so as many connections can be opened at a time without a full
/// handshake.
const OF_ENDPOINT: usize = 32;
/// Tickets kept in all.
const IN_ALL: usize = 256;

/// The tickets that belong to one configuration: what it expects of endpoints, our certificate and the roots are the
/// same for all. A ticket is sent to the endpoint that gave it alone: no other could read it.
#[derive(Default)]
pub(super) struct Tickets {
    kept: Mutex<Kept<Tls13ClientSessionValue>>,
}

impl Tickets {
    /// Drops those of an endpoint.
    pub(super) fn forget(&self, endpoint: SocketAddr) {
        self.kept.lock().forget(endpoint);
    }

    /// What rustls keeps and finds the tickets of one endpoint with.
    pub(super) fn of(self: &Arc<Self>, endpoint: SocketAddr) -> Arc<dyn ClientSessionStore> {
        Arc::new(OfEndpoint {
            tickets: self.clone(),
            endpoint,
        })
    }
}

struct Kept<T> {
    by_endpoint: HashMap<SocketAddr, VecDeque<T>>,
    count: usize,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            by_endpoint: HashMap::new(),
            count: 0,
        }
    }
}

impl<T> Kept<T> {
    fn put(&mut self, endpoint: SocketAddr, ticket: T) {
        if self.count >= IN_ALL
            && let Some(&another) = self.by_endpoint.keys().find(|known| **known != endpoint)
        {
            self.forget(another);
        }
        let tickets = self.by_endpoint.entry(endpoint).or_default();
        if tickets.len() >= OF_ENDPOINT {
            tickets.pop_front();
        } else {
            self.count += 1;
        }
        tickets.push_back(ticket);
    }

    /// The newest.
    fn take(&mut self, endpoint: SocketAddr) -> Option<T> {
        let tickets = self.by_endpoint.get_mut(&endpoint)?;
        let ticket = tickets.pop_back();
        self.count -= usize::from(ticket.is_some());
        if tickets.is_empty() {
            self.by_endpoint.remove(&endpoint);
        }
        ticket
    }

    fn forget(&mut self, endpoint: SocketAddr) {
        let forgotten = self.by_endpoint.remove(&endpoint);
        self.count -= forgotten.map_or(0, |tickets| tickets.len());
    }
}

struct OfEndpoint {
    tickets: Arc<Tickets>,
    endpoint: SocketAddr,
}

impl fmt::Debug for OfEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfEndpoint").field(&self.endpoint).finish()
    }
}

/// The server's name is not looked at: it is the same for all that use one configuration.
impl ClientSessionStore for OfEndpoint {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tickets.kept.lock().put(self.endpoint, ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.kept.lock().take(self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_ticket_is_for_its_endpoint_and_used_once() {
        let mut kept = Kept::default();
        kept.put(endpoint(1), "first");
        kept.put(endpoint(1), "second");
        assert_eq!(kept.take(endpoint(2)), None);
        assert_eq!(kept.take(endpoint(1)), Some("second"));
        assert_eq!(kept.take(endpoint(1)), Some("first"));
        assert_eq!(kept.take(endpoint(1)), None);
        assert_eq!((kept.count, kept.by_endpoint.len()), (0, 0));
    }

    #[test]
    fn tickets_are_bounded_for_each_endpoint_and_in_all() {
        let mut kept = Kept::default();
        for ticket in 0..100 {
            kept.put(endpoint(1), ticket);
        }
        assert_eq!(kept.count, OF_ENDPOINT);
        assert_eq!(kept.take(endpoint(1)), Some(99));
        for port in 2..1000 {
            kept.put(endpoint(port), 0);
            kept.put(endpoint(port), 1);
        }
        assert!(kept.count <= IN_ALL, "{}", kept.count);
        assert_eq!(kept.take(endpoint(999)), Some(1));
        let counted: usize = kept.by_endpoint.values().map(VecDeque::len).sum();
        assert_eq!(kept.count, counted);
    }
}
