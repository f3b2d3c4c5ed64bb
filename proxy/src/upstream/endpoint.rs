//! One endpoint with its pool and its load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;

use super::{
    pool::Pool,
    usage::{Kind, Overflow, Permit, Usage},
};
use crate::{
    balance::{self, Ejection},
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
    pub(super) usage: Arc<Usage>,
    ejection: Mutex<Ejection>,
    /// It failed last, or is ejected: only then is there something to look up in `ejection`.
    suspect: AtomicBool,
    pub(super) pool: Pool,
}

impl Endpoint {
    pub(super) fn new(
        model: model::Endpoint,
        cluster: &Arc<Cluster>,
        tls: Option<Arc<ClientSide>>,
        requests: Arc<RequestMetrics>,
        usage: &Arc<Usage>,
    ) -> Self {
        Self {
            model,
            tls,
            cluster: cluster.clone(),
            in_flight: AtomicU32::new(0),
            requests,
            usage: usage.clone(),
            ejection: Mutex::default(),
            suspect: AtomicBool::new(false),
            pool: Pool::default(),
        }
    }

    /// The endpoint of an `ORIGINAL_DST` cluster.
    pub(super) fn original(
        address: SocketAddr,
        cluster: &Arc<Cluster>,
        tls: Option<Arc<ClientSide>>,
        requests: Arc<RequestMetrics>,
        usage: &Arc<Usage>,
    ) -> Self {
        let model = model::Endpoint {
            address,
            weight: 1,
            principal: None,
            workload: Arc::default(),
        };
        Self::new(model, cluster, tls, requests, usage)
    }

    /// Whether this is what the configuration now says, so that its connections can be kept.
    pub(super) fn is(&self, model: &model::Endpoint, cluster: &Cluster) -> bool {
        self.model == *model
            && self.cluster.tls == cluster.tls
            && self.cluster.connect_timeout == cluster.connect_timeout
            && self.cluster.protocol == cluster.protocol
            && self.cluster.limits == cluster.limits
            && self.cluster.outlier_detection == cluster.outlier_detection
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

    /// Counts one request until the guard is dropped.
    ///
    /// # Errors
    /// When the cluster has as many as it may.
    pub fn begin(self: Arc<Self>) -> Result<InFlight, Overflow> {
        self.begin_as(Kind::Requests)
    }

    /// Counts one opaque connection until the guard is dropped.
    ///
    /// # Errors
    /// When the cluster has as many as it may.
    pub fn begin_connection(self: Arc<Self>) -> Result<InFlight, Overflow> {
        self.begin_as(Kind::Connections)
    }

    fn begin_as(self: Arc<Self>, kind: Kind) -> Result<InFlight, Overflow> {
        let permit = self.usage.take(kind, &self.cluster.limits)?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(InFlight {
            endpoint: self,
            _permit: permit,
        })
    }

    /// Whether it is left out for failing.
    pub fn is_ejected(&self) -> bool {
        self.suspect.load(Ordering::Acquire) && self.ejection.lock().is_ejected(Instant::now())
    }

    /// Takes in how a request or connect went; `limits` is asked only when it failed. Says whether this ejected it.
    pub(super) fn record(&self, failed: bool, limits: impl FnOnce() -> balance::Limits) -> bool {
        let Some(settings) = &self.cluster.outlier_detection else {
            return false;
        };
        if !failed && !self.suspect.load(Ordering::Acquire) {
            return false;
        }
        let limits = if failed {
            limits()
        } else {
            balance::Limits {
                endpoints: 0,
                ejected: 0,
            }
        };
        let now = Instant::now();
        let mut ejection = self.ejection.lock();
        let ejected = ejection.record(failed, limits, settings, now);
        let suspect = failed || ejection.is_ejected(now);
        self.suspect.store(suspect, Ordering::Release);
        ejected
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
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    _permit: Permit,
}

impl InFlight {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
