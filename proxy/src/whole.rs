//! All listeners and clusters of a server of which everything is asked for, followed as Envoy does: every listener with
//! an address is bound, and all that listeners and clusters name is asked for, in use or not. There are servers that
//! answer nothing until each resource they have was asked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;
use weir_xds::ResourceType;

use crate::{
    accept::Bound,
    context::Context,
    model::{Cluster, Direction, Listener, RouteSource, RouteTable, Terminal},
    outbound::Services,
    upstream::Upstream,
    xds::Watched,
};

/// An address that cannot be bound is tried again this often.
const RETRY: Duration = Duration::from_secs(1);

type Listeners = BTreeMap<Arc<str>, Arc<Listener>>;

/// What is followed now.
pub struct Whole {
    context: Arc<Context>,
    services: Arc<Services>,
    bound: HashMap<Arc<str>, (Place, Bound)>,
    clusters: Vec<Arc<Upstream>>,
    tables: BTreeMap<String, Watched<RouteTable>>,
    /// Listeners that could not be bound, each told once.
    unbound: HashMap<Arc<str>, Place>,
}

/// What of a listener cannot change while it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    direction: Direction,
    original_dst: bool,
}

impl Place {
    fn of(listener: &Listener) -> Option<Self> {
        Some(Self {
            address: listener.address?,
            direction: listener.direction,
            original_dst: listener.original_dst,
        })
    }
}

impl Whole {
    /// Nothing followed yet.
    pub fn new(context: Arc<Context>, services: Arc<Services>) -> Self {
        Self {
            context,
            services,
            bound: HashMap::new(),
            clusters: Vec::new(),
            tables: BTreeMap::new(),
            unbound: HashMap::new(),
        }
    }

    /// Follows all that the server sends of these types, for ever.
    pub async fn follow(mut self, types: BTreeSet<ResourceType>) {
        if types.is_empty() {
            return;
        }
        let mut arrivals = self.context.store.arrivals();
        loop {
            arrivals.mark_unchanged();
            if types.contains(&ResourceType::Cluster) {
                self.ask_for_endpoints();
            }
            if types.contains(&ResourceType::Listener) {
                let listeners = self.context.store.served::<Listener>();
                self.ask_for_routes(&listeners);
                self.bind(&listeners).await;
            }
            let changed = arrivals.changed();
            match self.unbound.is_empty() {
                true => drop(changed.await),
                false => drop(timeout(RETRY, changed).await),
            }
        }
    }

    fn ask_for_endpoints(&mut self) {
        let context = &self.context;
        let served = context.store.served::<Cluster>();
        self.clusters = served.keys().map(|name| context.upstreams.get(name)).collect();
    }

    fn ask_for_routes(&mut self, listeners: &Listeners) {
        let mut tables = BTreeMap::new();
        let listeners = listeners.values();
        for chain in listeners.flat_map(|listener| listener.chains.iter().chain(&listener.default_chain)) {
            if let Terminal::Http(http) = &chain.terminal
                && let RouteSource::Rds(name) = &http.routes
                && !tables.contains_key(name)
            {
                let kept = self.tables.remove(name);
                tables.insert(
                    name.clone(),
                    kept.unwrap_or_else(|| self.context.store.watch(name)),
                );
            }
        }
        self.tables = tables;
    }

    /// Binds what is new, after the addresses of what is gone are free.
    async fn bind(&mut self, listeners: &Listeners) {
        let places: BTreeMap<_, _> = listeners
            .iter()
            .filter_map(|(name, listener)| Some((name, (listener, Place::of(listener)?))))
            .collect();
        let kept = |name: &Arc<str>, place: &Place| places.get(name).is_some_and(|(_, now)| now == place);
        let gone = self.bound.extract_if(|name, (place, _)| !kept(name, place));
        for (_, (_, bound)) in gone.collect::<Vec<_>>() {
            bound.close().await;
        }
        self.unbound.retain(|name, place| kept(name, place));
        for (name, (listener, place)) in places {
            if self.bound.contains_key(name) {
                continue;
            }
            match Bound::open(&self.context, &self.services, name, listener, place.address) {
                Ok(bound) => {
                    self.unbound.remove(name);
                    self.bound.insert(name.clone(), (place, bound));
                }
                Err(error) => self.complain(name, place, &error),
            }
        }
    }

    fn complain(&mut self, name: &Arc<str>, place: Place, error: &std::io::Error) {
        if self.unbound.insert(name.clone(), place).is_none() {
            let address = place.address;
            tracing::error!(
                listener = &**name, %address, %error,
                "cannot listen; trying again until it works or the control plane takes the listener back: is the \
                 address this pod's, and free?"
            );
        }
    }
}
