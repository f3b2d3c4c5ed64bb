//! The task behind every cluster in use: it watches the cluster and its endpoints.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    net::lookup_host,
    time::{Instant, sleep, sleep_until},
};

use super::{Endpoint, Now, Readiness, Upstream};
use crate::{
    model::{self, Cluster, Discovery, Endpoints},
    tls::Tls,
    xds::{State, Store, Watched},
};

/// Names are resolved anew this often, and this soon after a failure.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);
const RESOLVE_RETRY: Duration = Duration::from_secs(1);
/// Idle pooled connections are looked at this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// Where the endpoints of the cluster's present version come from.
enum Source {
    Fixed(Arc<Endpoints>),
    Watched(String, Watched<Endpoints>),
    Resolved(Vec<(String, u16)>, Option<Arc<Endpoints>>, Instant),
    None,
}

/// Follows the cluster `name` until the upstream is gone.
pub(super) async fn follow(upstream: Weak<Upstream>, name: Arc<str>, store: Store, tls: Arc<Tls>) {
    let mut watched = store.watch::<Cluster>(&name);
    let mut cluster: Option<Arc<Cluster>> = None;
    let mut source = Source::None;
    let mut sweep = Instant::now() + SWEEP_INTERVAL;
    loop {
        let state = watched.current();
        if let State::Ready(latest) = &state
            && !cluster
                .as_ref()
                .is_some_and(|cluster| Arc::ptr_eq(cluster, latest))
        {
            source = source.follow(latest, &store);
            cluster = Some(latest.clone());
        }
        let Some(upstream_now) = upstream.upgrade() else {
            return;
        };
        upstream_now.settle(&state, source.endpoints(), &tls);
        drop(upstream_now);
        tokio::select! {
            () = watched.changed() => {}
            () = source.changed() => {}
            () = sleep_until(sweep) => {
                sweep = Instant::now() + SWEEP_INTERVAL;
                if let Some(upstream) = upstream.upgrade() {
                    upstream.now.load().endpoints.iter().for_each(|endpoint| endpoint.sweep());
                }
            }
        }
    }
}

impl Source {
    /// The source for a new version of the cluster. One already followed is kept.
    fn follow(self, cluster: &Cluster, store: &Store) -> Self {
        match (&cluster.discovery, self) {
            (Discovery::Static(endpoints), _) => Self::Fixed(endpoints.clone()),
            (Discovery::Eds(name), Self::Watched(known, watched)) if known == *name => {
                Self::Watched(known, watched)
            }
            (Discovery::Eds(name), _) => Self::Watched(name.clone(), store.watch(name)),
            (Discovery::Dns(names), Self::Resolved(known, endpoints, next)) if known == *names => {
                Self::Resolved(known, endpoints, next)
            }
            (Discovery::Dns(names), _) => Self::Resolved(names.clone(), None, Instant::now()),
            (Discovery::OriginalDst, _) => Self::Fixed(Arc::default()),
        }
    }

    /// The endpoints, or `None` when they are not known yet.
    fn endpoints(&self) -> Option<Arc<Endpoints>> {
        match self {
            Self::Fixed(endpoints) => Some(endpoints.clone()),
            Self::Watched(_, watched) => match watched.current() {
                State::Pending => None,
                State::Absent => Some(Arc::default()),
                State::Ready(endpoints) => Some(endpoints),
            },
            Self::Resolved(_, endpoints, _) => endpoints.clone(),
            Self::None => None,
        }
    }

    /// Waits for a change.
    async fn changed(&mut self) {
        match self {
            Self::Fixed(_) | Self::None => pending().await,
            Self::Watched(_, watched) => watched.changed().await,
            Self::Resolved(names, endpoints, next) => {
                sleep_until(*next).await;
                match resolve(names).await {
                    Some(resolved) => {
                        *next = Instant::now() + RESOLVE_INTERVAL;
                        *endpoints = Some(Arc::new(resolved));
                    }
                    None => {
                        *next = Instant::now() + RESOLVE_RETRY;
                        sleep(Duration::ZERO).await;
                    }
                }
            }
        }
    }
}

/// Resolves every name; `None` when none could be, so that the last addresses stay in use.
async fn resolve(names: &[(String, u16)]) -> Option<Endpoints> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for (name, port) in names {
        match lookup_host((name.as_str(), *port)).await {
            Ok(found) => addresses.extend(found),
            Err(error) => tracing::warn!(name, %error, "cannot resolve a cluster's name; retrying"),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    let workload = Arc::<model::Workload>::default();
    let endpoint = |address| model::Endpoint {
        address,
        weight: 1,
        principal: None,
        workload: workload.clone(),
    };
    (!addresses.is_empty()).then(|| Endpoints {
        endpoints: addresses.into_iter().map(endpoint).collect(),
    })
}

impl Upstream {
    /// Takes in what is known of the cluster. A cluster that went absent stops taking requests.
    fn settle(&self, state: &State<Cluster>, endpoints: Option<Arc<Endpoints>>, tls: &Tls) {
        match (state, endpoints) {
            (State::Ready(cluster), Some(endpoints)) => {
                self.update(cluster, &endpoints, tls);
                self.set_readiness(Readiness::Ready);
            }
            (State::Absent, _) => {
                let old = self.now.load_full();
                self.now.store(Arc::new(Now {
                    emptied: emptied(&old, true),
                    ..Now::default()
                }));
                for endpoint in &old.endpoints {
                    endpoint.retire();
                }
                self.set_readiness(Readiness::Absent);
            }
            _ => {}
        }
    }

    fn set_readiness(&self, readiness: Readiness) {
        self.readiness
            .send_if_modified(|old| std::mem::replace(old, readiness) != readiness);
    }

    /// Endpoints that stay keep their pools; those gone are retired.
    fn update(&self, cluster: &Arc<Cluster>, endpoints: &Endpoints, sides: &Tls) {
        let old = self.now.load_full();
        let same_tls = old.cluster.as_ref().is_some_and(|old| old.tls == cluster.tls);
        let tls = if same_tls {
            old.tls.clone()
        } else {
            self.originals.lock().clear();
            cluster.tls.as_ref().map(|tls| sides.client(tls))
        };
        let endpoints: Vec<Arc<Endpoint>> = endpoints
            .endpoints
            .iter()
            .map(|endpoint| {
                let kept = old.endpoints.iter().find(|old| old.is(endpoint, cluster));
                kept.cloned().unwrap_or_else(|| {
                    let requests = self.requests.to(&endpoint.workload);
                    let tls = tls.clone();
                    Arc::new(Endpoint::new(
                        endpoint.clone(),
                        cluster,
                        tls,
                        requests,
                        &self.usage,
                    ))
                })
            })
            .collect();
        self.now.store(Arc::new(Now {
            cluster: Some(cluster.clone()),
            tls,
            endpoints: endpoints.clone(),
            emptied: emptied(&old, endpoints.is_empty()),
        }));
        self.updated.notify_waiters();
        for gone in &old.endpoints {
            if !endpoints.iter().any(|endpoint| Arc::ptr_eq(endpoint, gone)) {
                gone.retire();
            }
        }
    }
}

/// When the last endpoint was lost, of a state that comes after `old`.
fn emptied(old: &Now, is_empty: bool) -> Option<Instant> {
    match (is_empty, old.endpoints.is_empty()) {
        (false, _) => None,
        (true, true) => old.emptied,
        (true, false) => Some(Instant::now()),
    }
}
