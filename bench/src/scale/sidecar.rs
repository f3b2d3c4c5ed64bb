//! A simulated sidecar: subscribes as weir-proxy does, keeps the version of each resource, answers each response and
//! comes back after its connection is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use tokio::{sync::watch, time::sleep};
use weir_xds::{
    ResourceType,
    envoy::{
        config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment},
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
    unpack,
};

use super::{board::Board, call, call::Call, holding::Holding, wire};

/// As the proxy's own: the first pause, the longest, and the longest after a stream that served for long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const MOVE: Duration = Duration::from_millis(250);
const SETTLED: Duration = Duration::from_secs(10);

/// What all sidecars share.
pub(super) struct Fleet {
    pub(super) address: SocketAddr,
    pub(super) board: Board,
    pub(super) bytes: Arc<wire::Bytes>,
    pub(super) counts: Counts,
    /// Raised to cut every connection.
    pub(super) cuts: watch::Sender<u64>,
    /// Sidecars that have all they asked for, since the last cut.
    pub(super) served: watch::Sender<usize>,
    /// Why the last connection was lost, cuts aside.
    pub(super) last_failure: watch::Sender<Option<String>>,
}

/// What sidecars saw, all together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Resources received.
    pub(super) resources: AtomicU64,
    /// Of these, resources that the sidecar had in that version.
    pub(super) resent: AtomicU64,
    /// Connections that failed or ended, other than by a cut.
    pub(super) failures: AtomicU64,
}

/// One of them.
pub(super) struct Sidecar {
    pub(super) fleet: Arc<Fleet>,
    pub(super) uid: String,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) holding: Holding,
}

impl Sidecar {
    /// Stays connected for ever.
    pub(super) async fn run(mut self) {
        let mut cuts = self.fleet.cuts.subscribe();
        let mut failures = 0;
        loop {
            let opened = Instant::now();
            let cut = tokio::select! {
                error = self.connect() => Some(error),
                _ = cuts.changed() => None,
            };
            let served = opened.elapsed();
            if let Some(Err(error)) = &cut {
                self.fleet.counts.failures.fetch_add(1, Ordering::Relaxed);
                self.fleet.last_failure.send_replace(Some(format!("{error:#}")));
            } else {
                failures = 0;
            }
            sleep(pause(served, &mut failures, rand::random())).await;
        }
    }

    async fn connect(&mut self) -> anyhow::Result<()> {
        let fleet = self.fleet.clone();
        let (mut call, driver) = call::open(fleet.address, self.tls.clone(), fleet.bytes.clone()).await?;
        tokio::select! {
            ended = self.converse(&mut call) => ended,
            driven = driver => driven.context("the connection broke"),
        }
    }

    async fn converse(&mut self, call: &mut Call) -> anyhow::Result<()> {
        let mut node = Some(Node {
            id: self.uid.clone(),
            ..Node::default()
        });
        self.holding.reconnect();
        let mut served = false;
        loop {
            while let Some(mut request) = self.holding.ask() {
                request.node = node.take();
                call.send(&request)?;
            }
            if !served && self.holding.complete() {
                served = true;
                self.fleet.served.send_modify(|served| *served += 1);
            }
            let response = call.next().await?;
            self.take(&response)?;
            call.send(&DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            })?;
        }
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) -> anyhow::Result<()> {
        let Some(kind) = ResourceType::from_url(&response.type_url) else {
            bail!("a response of type {:?}", response.type_url);
        };
        let counts = &self.fleet.counts;
        for resource in &response.resources {
            counts.resources.fetch_add(1, Ordering::Relaxed);
            let taken = self.holding.take(kind, &resource.name, &resource.version);
            let taken = taken.with_context(|| format!("{kind:?} {} was not asked for", resource.name))?;
            if taken.known {
                counts.resent.fetch_add(1, Ordering::Relaxed);
            }
            if let (Some(service), Some(any)) = (taken.service, &resource.resource) {
                let assignment: ClusterLoadAssignment = unpack(any)?;
                let endpoints = assignment.endpoints.iter().map(|at| at.lb_endpoints.len()).sum();
                self.fleet.board.received(service, endpoints);
            }
        }
        match response.removed_resources.first() {
            Some(name) => bail!("the controller has no {kind:?} {name}"),
            None => Ok(()),
        }
    }
}

/// How long to wait before the next connection; a part is left to chance, from 0 to 1.
fn pause(served: Duration, failures: &mut u32, chance: f64) -> Duration {
    if served >= SETTLED {
        return MOVE.mul_f64(chance);
    }
    let doubled = FIRST_PAUSE.saturating_mul(1 << (*failures).min(10));
    *failures = failures.saturating_add(1);
    doubled.mul_f64(0.8 + 0.4 * chance).min(LONGEST_PAUSE)
}
