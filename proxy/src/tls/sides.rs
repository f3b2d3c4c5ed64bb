//! One [`ServerSide`] for each configuration of a chain, one [`ClientSide`] for each of a cluster.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{ClientSide, ServerSide};
use crate::{
    model::{ServerTls, UpstreamTls},
    xds::Store,
};

/// Finds the side that belongs to a configuration, and makes it at first need. It is kept as long as the
/// configuration is in use.
pub struct Tls {
    store: Store,
    servers: Mutex<Sides<ServerTls, ServerSide>>,
    clients: Mutex<Sides<UpstreamTls, ClientSide>>,
}

impl Tls {
    /// With the secrets in this store.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            servers: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// The termination of this configuration.
    pub fn server(&self, tls: &Arc<ServerTls>) -> Arc<ServerSide> {
        self.servers
            .lock()
            .get(tls, |tls| ServerSide::new(tls, &self.store))
    }

    /// The origination of this configuration.
    pub fn client(&self, tls: &Arc<UpstreamTls>) -> Arc<ClientSide> {
        self.clients
            .lock()
            .get(tls, |tls| ClientSide::new(tls, &self.store))
    }
}

/// Sides by the address of their configuration. The weak reference keeps the address from being used again.
struct Sides<C, S> {
    entries: HashMap<usize, (Weak<C>, Arc<S>)>,
    prune_at: usize,
}

impl<C, S> Default for Sides<C, S> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            prune_at: 16,
        }
    }
}

impl<C, S> Sides<C, S> {
    fn get(&mut self, config: &Arc<C>, make: impl FnOnce(&C) -> S) -> Arc<S> {
        let address = Arc::as_ptr(config).addr();
        if let Some((_, side)) = self.entries.get(&address) {
            return side.clone();
        }
        if self.entries.len() >= self.prune_at {
            self.entries.retain(|_, (config, _)| config.strong_count() > 0);
            self.prune_at = 16.max(2 * self.entries.len());
        }
        let side = Arc::new(make(config));
        self.entries
            .insert(address, (Arc::downgrade(config), side.clone()));
        side
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_lives_as_long_as_its_configuration() {
        let mut sides = Sides::<u8, u8>::default();
        let kept = Arc::new(1);
        let side = sides.get(&kept, |config| *config);
        for other in 0..100 {
            sides.get(&Arc::new(other), |config| *config);
        }
        assert!(Arc::ptr_eq(&side, &sides.get(&kept, |_| 9)));
        assert!(sides.entries.len() <= 16);
    }
}
