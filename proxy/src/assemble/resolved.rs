//! A listener with everything that it names, as one immutable snapshot.

use std::{collections::HashMap, sync::Arc, time::Instant};

use parking_lot::Mutex;

use crate::{
    admit::{Denied, admit},
    bucket::TokenBucket,
    chain::{self, Facts},
    model::{FilterChain, Http, Listener, Network, Route, RouteAction, RouteTable, Tcp, WeightedCluster},
    reason::Reason,
    route::{self, Turns},
    tls::{PeerIdentity, ServerSide},
    upstream::{Upstream, Upstreams},
};

/// A listener, resolved.
pub struct Resolved {
    /// As configured.
    pub listener: Arc<Listener>,
    pub(super) chains: Vec<Arc<Chain>>,
    pub(super) default_chain: Option<Arc<Chain>>,
    /// The version that waits to take over.
    pub(super) next: Option<Arc<Resolved>>,
}

/// A filter chain, resolved.
pub struct Chain {
    /// As configured.
    pub model: Arc<FilterChain>,
    /// TLS termination.
    pub tls: Option<Arc<ServerSide>>,
    /// Its last filter.
    pub terminal: Terminal,
    /// The bucket of each of its rate limits.
    pub(super) buckets: Arc<[Mutex<TokenBucket>]>,
}

impl Chain {
    /// Whether one more connection is within its rate limits.
    pub fn within_rate(&self, now: Instant) -> bool {
        self.buckets.iter().all(|bucket| bucket.lock().take(now))
    }
}

pub(super) fn buckets(chain: &FilterChain, now: Instant) -> Arc<[Mutex<TokenBucket>]> {
    let limits = chain.network.iter().filter_map(|filter| match filter {
        Network::LocalRateLimit(settings) => Some(Mutex::new(TokenBucket::new(*settings, now))),
        Network::Rbac(_) => None,
    });
    limits.collect()
}

/// The last filter of a chain, resolved.
pub enum Terminal {
    /// HTTP is served.
    Http(HttpChain),
    /// Bytes are copied.
    Tcp(Tcp, Targets),
}

/// An HTTP connection manager, resolved.
pub struct HttpChain {
    /// As configured.
    pub http: Arc<Http>,
    /// Its routes; `None` while they are not known.
    pub table: Option<Arc<RouteTable>>,
    /// The targets of each forwarding route, by the route's address in `table`.
    targets: HashMap<usize, Targets>,
}

/// A key that needs no hashing of names; `table` keeps what is at the address.
fn address(route: &Arc<Route>) -> usize {
    Arc::as_ptr(route).addr()
}

/// Clusters by weight, taken in turns.
pub struct Targets {
    clusters: Vec<(Arc<Upstream>, u32)>,
    turns: Turns,
}

impl Targets {
    pub(super) fn new(clusters: &[WeightedCluster], upstreams: &Upstreams) -> Self {
        Self {
            clusters: clusters
                .iter()
                .map(|cluster| (upstreams.get(&cluster.cluster), cluster.weight))
                .collect(),
            turns: Turns::starting_at(rand::random()),
        }
    }

    /// The one whose turn it is, each as often as its weight says; `None` when all weigh nothing.
    pub fn next(&self) -> Option<&Arc<Upstream>> {
        if let [(only, weight)] = self.clusters.as_slice() {
            return (*weight > 0).then_some(only);
        }
        let weights = self.clusters.iter().map(|(_, weight)| *weight);
        let index = route::pick(weights, self.turns.next())?;
        self.clusters.get(index).map(|(upstream, _)| upstream)
    }
}

impl HttpChain {
    pub(super) fn new(http: Arc<Http>, table: Option<Arc<RouteTable>>, upstreams: &Upstreams) -> Self {
        let hosts = table.iter().flat_map(|table| &table.virtual_hosts);
        let routes = hosts.flat_map(|host| &host.routes);
        let targets = routes.filter_map(|route| match &route.action {
            RouteAction::Forward(destination) => {
                Some((address(route), Targets::new(&destination.clusters, upstreams)))
            }
            _ => None,
        });
        let targets = targets.collect();
        Self { http, table, targets }
    }

    /// The targets of a route of this table.
    pub fn targets(&self, route: &Arc<Route>) -> Option<&Targets> {
        self.targets.get(&address(route))
    }
}

impl Resolved {
    /// The chain at an index that [`crate::chain::select`] gave, or the default one.
    pub fn chain(&self, index: Option<usize>) -> Option<&Arc<Chain>> {
        match index {
            Some(index) => self.chains.get(index),
            None => self.default_chain.as_ref(),
        }
    }

    /// The chain that a connection belongs to and which lets it in, as does the version that waits to take over.
    ///
    /// # Errors
    /// With the reason when there is none, or it is refused.
    pub fn admitting(&self, facts: &Facts, peer: Option<&PeerIdentity>) -> Result<&Arc<Chain>, Denied> {
        let chain = self.chain(chain::select(&self.listener, facts));
        let chain = chain.ok_or_else(|| Denied {
            reason: Reason::NoFilterChain,
            text: "the listener serves no such connection".to_owned(),
        })?;
        admit(&chain.model, facts, peer)?;
        self.next_chain(facts, peer)?;
        Ok(chain)
    }

    /// The chain of the version that waits to take over; `None` when there is none. What it forbids is forbidden now.
    ///
    /// # Errors
    /// With the reason when it has no chain for the connection, or refuses it.
    pub fn next_chain(
        &self,
        facts: &Facts,
        peer: Option<&PeerIdentity>,
    ) -> Result<Option<&Arc<Chain>>, Denied> {
        let Some(next) = &self.next else {
            return Ok(None);
        };
        let chain = next.chain(chain::select(&next.listener, facts));
        let chain = chain.ok_or_else(|| Denied {
            reason: Reason::NoFilterChain,
            text: "the listener's new version serves no such connection".to_owned(),
        })?;
        admit(&chain.model, facts, peer)?;
        Ok(Some(chain))
    }

    /// Whether no other version waits to take over.
    pub fn is_alone(&self) -> bool {
        self.next.is_none()
    }

    /// The same while `next` waits.
    pub(super) fn narrowed(&self, next: Arc<Resolved>) -> Self {
        Self {
            listener: self.listener.clone(),
            chains: self.chains.clone(),
            default_chain: self.default_chain.clone(),
            next: Some(next),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.all().flat_map(|chain| {
            let targets: Vec<&Targets> = match &chain.terminal {
                Terminal::Http(http) => http.targets.values().collect(),
                Terminal::Tcp(_, targets) => vec![targets],
            };
            targets
                .into_iter()
                .flat_map(|targets| targets.clusters.iter().map(|(upstream, _)| upstream))
        })
    }
}
