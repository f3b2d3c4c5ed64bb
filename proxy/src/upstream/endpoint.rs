//! One endpoint with its pool and its load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::pool::Pool;
use crate::{
    balance::{self, Load},
    model::{self, Cluster, Workload},
    telemetry::RequestMetrics,
    tls::ClientSide,
};

/// An address, what is known of the pod behind it, and the connections to it.
pub struct Endpoint {
    model: model::Endpoint,
    cluster: Arc<Cluster>,
    tls: Option<Arc<ClientSide>>,
    in_flight: AtomicU32,
    requests: Arc<RequestMetrics>,
    pub(super) pool: Pool,
}

impl Endpoint {
    pub(super) fn new(
        model: model::Endpoint,
        cluster: &Arc<Cluster>,
        tls: Option<Arc<ClientSide>>,
        requests: Arc<RequestMetrics>,
    ) -> Self {
        Self {
            model,
            tls,
            cluster: cluster.clone(),
            in_flight: AtomicU32::new(0),
            requests,
            pool: Pool::default(),
        }
    }

    /// The endpoint of an `ORIGINAL_DST` cluster.
    pub(super) fn original(
        address: SocketAddr,
        cluster: &Arc<Cluster>,
        tls: Option<Arc<ClientSide>>,
        requests: Arc<RequestMetrics>,
    ) -> Self {
        let model = model::Endpoint {
            address,
            weight: 1,
            principal: None,
            workload: Arc::default(),
        };
        Self::new(model, cluster, tls, requests)
    }

    /// Whether this is what the configuration now says, so that its connections can be kept.
    pub(super) fn is(&self, model: &model::Endpoint, cluster: &Cluster) -> bool {
        self.model == *model
            && self.cluster.tls == cluster.tls
            && self.cluster.connect_timeout == cluster.connect_timeout
            && self.cluster.protocol == cluster.protocol
            && self.cluster.limits == cluster.limits
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.model.address
    }

    /// The SPIFFE URI that it must prove.
    pub fn principal(&self) -> Option<&Arc<str>> {
        self.model.principal.as_ref()
    }

    /// TLS towards it; `None`: plaintext.
    pub fn tls(&self) -> Option<&Arc<ClientSide>> {
        self.tls.as_ref()
    }

    /// The pod behind it.
    pub fn workload(&self) -> &Arc<Workload> {
        &self.model.workload
    }

    /// Where requests to it are counted.
    pub fn requests(&self) -> &Arc<RequestMetrics> {
        &self.requests
    }

    /// Its relative weight.
    pub fn weight(&self) -> u32 {
        self.model.weight
    }

    /// The cluster as it was when the endpoint was last changed.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Requests and connections on it now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one request or connection until the guard is dropped.
    pub fn begin(self: Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// Takes no new requests: idle connections are closed, those in use are when they are done.
    pub(super) fn retire(&self) {
        self.pool.retire();
    }

    /// Closes connections idle for long.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
    }
}

/// Counts as one request or connection on its endpoint while it lives.
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The less loaded of two taken at random.
pub(super) fn choose(endpoints: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
    if let [only] = endpoints {
        return Some(only.clone());
    }
    let load = |index: usize| Load {
        cost: balance::least_request(endpoints[index].in_flight(), endpoints[index].weight()),
        ejected: false,
    };
    let chosen = balance::choose(load, endpoints.len(), rand::random)?;
    endpoints.get(chosen).cloned()
}
