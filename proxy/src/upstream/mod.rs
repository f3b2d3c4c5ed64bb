//! Clusters as the data path uses them: found by name once, kept while anyone names them, and followed
//! through every change of the cluster and its endpoints. Pools outlive configuration changes.

mod connect;
mod endpoint;
mod follow;
mod lull;
mod pool;
mod usage;

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

pub use connect::{ConnectError, Connector, Opened, Purpose};
pub use endpoint::{Endpoint, InFlight};
pub use lull::Lack;
pub use pool::{Lease, Passage, SendError};
pub use usage::Overflow;
use usage::{Kind, Permit, Usage};

use crate::{
    balance::{self, Load},
    model::{Cluster, Discovery},
    reason::Reason,
    telemetry::Requests,
    tls::{ClientSide, Tls},
    xds::Store,
};

/// Destinations of an `ORIGINAL_DST` cluster whose pools are kept.
const ORIGINAL_DESTINATIONS: usize = 1024;

/// What is known of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Asked for; the cluster or its endpoints did not arrive yet.
    Pending,
    /// The control plane says that there is no such cluster.
    Absent,
    /// Requests can be sent.
    Ready,
}

/// One cluster.
pub struct Upstream {
    name: Arc<str>,
    now: ArcSwap<Now>,
    readiness: watch::Sender<Readiness>,
    follower: Mutex<Option<AbortHandle>>,
    originals: Mutex<HashMap<SocketAddr, Arc<Endpoint>>>,
    requests: Requests,
    usage: Arc<Usage>,
    /// Its endpoints changed.
    updated: Notify,
}

/// An endpoint beside those that were tried.
pub enum Another {
    /// This.
    Found(Arc<Endpoint>),
    /// None now.
    NotYet,
    /// There can be none: the client asked for one by its address.
    Never,
}

/// Counts as one retry of a cluster while it lives.
pub struct Retrying(#[expect(dead_code, reason = "counts while it lives")] Permit);

/// A cluster and its endpoints at a time.
#[derive(Default)]
pub struct Now {
    /// The cluster; `None` until it is known.
    pub cluster: Option<Arc<Cluster>>,
    /// TLS towards its endpoints.
    tls: Option<Arc<ClientSide>>,
    /// Its usable endpoints, each with its pool.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// When it lost the last of them.
    emptied: Option<Instant>,
}

impl Upstream {
    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster and its endpoints now.
    pub fn now(&self) -> arc_swap::Guard<Arc<Now>> {
        self.now.load()
    }

    /// Follows whether it is ready.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Chooses the endpoint for one request or connection; `original` is where the client wanted to go.
    ///
    /// # Errors
    /// With the reason when there is no such cluster or it has no endpoint, and whether one is to be waited for.
    pub fn pick(&self, original: SocketAddr) -> Result<Arc<Endpoint>, Lack> {
        let now = self.now.load();
        let lack = |reason| Lack::since(now.emptied, reason);
        let cluster = now.cluster.as_ref().ok_or_else(|| lack(Reason::NoCluster))?;
        if cluster.discovery == Discovery::OriginalDst {
            return Ok(self.original(original, cluster, &now.tls));
        }
        let endpoints = &now.endpoints;
        // Who asks for one pod of a headless service wants that pod: it may be the one that has the data.
        if let Some(named) = endpoints.iter().find(|endpoint| endpoint.address() == original) {
            return Ok(named.clone());
        }
        choose(endpoints).cloned().ok_or_else(|| lack(Reason::NoEndpoint))
    }

    /// Chooses among the endpoints that are not in `tried`.
    pub fn untried(&self, original: SocketAddr, tried: &[SocketAddr]) -> Another {
        let now = self.now.load();
        let anywhere = now.cluster.as_ref();
        let anywhere = anywhere.is_some_and(|cluster| cluster.discovery != Discovery::OriginalDst);
        if !anywhere || tried.contains(&original) {
            return Another::Never;
        }
        let untried = now.endpoints.iter();
        let untried: Vec<_> = untried
            .filter(|endpoint| !tried.contains(&endpoint.address()))
            .cloned()
            .collect();
        choose(&untried).map_or(Another::NotYet, |endpoint| Another::Found(endpoint.clone()))
    }

    /// Waits for an endpoint that is not in `tried`; `None` when there is none in time.
    pub async fn another(
        &self,
        original: SocketAddr,
        tried: &[SocketAddr],
        deadline: Instant,
    ) -> Option<Arc<Endpoint>> {
        loop {
            let mut updated = pin!(self.updated.notified());
            updated.as_mut().enable();
            match self.untried(original, tried) {
                Another::Found(endpoint) => return Some(endpoint),
                Another::Never => return None,
                Another::NotYet => timeout_at(deadline, updated).await.ok()?,
            }
        }
    }

    /// Takes in how a request to an endpoint or a connect went: a 5xx, no response and no connection are failures.
    pub fn record(&self, endpoint: &Endpoint, failed: bool) {
        let ejected = endpoint.record(failed, || {
            let now = self.now.load();
            balance::Limits {
                endpoints: now.endpoints.len(),
                ejected: now.endpoints.iter().filter(|other| other.is_ejected()).count(),
            }
        });
        if ejected {
            let (cluster, endpoint) = (self.name(), endpoint.address());
            tracing::info!(cluster, %endpoint, "left out for a while: it failed several times in a row");
        }
    }

    /// Counts one more retry until the guard is dropped; `None` when the cluster has as many as it may.
    pub fn retry(&self, endpoint: &Endpoint) -> Option<Retrying> {
        let permit = self.usage.take(Kind::Retries, &endpoint.cluster().limits);
        permit.ok().map(Retrying)
    }

    fn original(
        &self,
        address: SocketAddr,
        cluster: &Arc<Cluster>,
        tls: &Option<Arc<ClientSide>>,
    ) -> Arc<Endpoint> {
        let mut originals = self.originals.lock();
        if originals.len() >= ORIGINAL_DESTINATIONS {
            originals.retain(|_, endpoint| endpoint.in_flight() > 0);
        }
        originals
            .entry(address)
            .or_insert_with(|| {
                let requests = self.requests.unknown();
                Arc::new(Endpoint::original(
                    address,
                    cluster,
                    tls.clone(),
                    requests,
                    &self.usage,
                ))
            })
            .clone()
    }
}

fn choose(endpoints: &[Arc<Endpoint>]) -> Option<&Arc<Endpoint>> {
    let load = |index: usize| Load {
        cost: balance::least_request(endpoints[index].in_flight(), endpoints[index].weight()),
        ejected: endpoints[index].is_ejected(),
    };
    endpoints.get(balance::choose(load, endpoints.len(), rand::random)?)
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.lock().take() {
            follower.abort();
        }
        for endpoint in &self.now.load().endpoints {
            endpoint.retire();
        }
    }
}

/// All clusters in use. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams {
    store: Store,
    tls: Arc<Tls>,
    connector: Connector,
    requests: Requests,
    known: Arc<Mutex<HashMap<Arc<str>, Weak<Upstream>>>>,
}

impl Upstreams {
    /// None in use yet; clusters come from `store`, and what is sent to them is counted in `requests`.
    pub fn new(store: Store, tls: Arc<Tls>, connector: Connector, requests: Requests) -> Self {
        Self {
            store,
            tls,
            connector,
            requests,
            known: Arc::default(),
        }
    }

    /// How endpoints are connected to.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Every cluster in use, by name.
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        let known = self.known.lock();
        let mut all: Vec<_> = known.values().filter_map(Weak::upgrade).collect();
        drop(known);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The cluster of this name, followed from now on until no one holds it.
    pub fn get(&self, name: &str) -> Arc<Upstream> {
        let mut known = self.known.lock();
        if let Some(upstream) = known.get(name).and_then(Weak::upgrade) {
            return upstream;
        }
        known.retain(|_, upstream| upstream.strong_count() > 0);
        let name: Arc<str> = name.into();
        let upstream = Arc::new(Upstream {
            name: name.clone(),
            now: ArcSwap::default(),
            readiness: watch::Sender::new(Readiness::Pending),
            follower: Mutex::default(),
            originals: Mutex::default(),
            requests: self.requests.clone(),
            usage: Arc::default(),
            updated: Notify::default(),
        });
        let follower = tokio::spawn(follow::follow(
            Arc::downgrade(&upstream),
            name.clone(),
            self.store.clone(),
            self.tls.clone(),
        ));
        *upstream.follower.lock() = Some(follower.abort_handle());
        known.insert(name, Arc::downgrade(&upstream));
        upstream
    }
}
