//! What the proxy control plane counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tracing::{debug, warn};

use super::pace::Passed;

/// Sessions, requests, responses and refusals.
///
/// What OSM counts keeps OSM's name, which ends in `_count`. The exposition format ends the name of every counter in
/// `_total`, so these are gauges to it, that only grow.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) sessions: Gauge,
    pub(super) reconnects: Gauge,
    pub(super) requests: Family<Kind, Gauge>,
    pub(super) responses: Family<Kind, Gauge>,
    pub(super) nacks: Family<Kind, Counter>,
    refused: Family<Reason, Counter>,
    ignored: Family<Reason, Counter>,
    paced: Family<What, Counter>,
    pub(super) handshakes_failed: Counter,
    pub(super) generation: Gauge,
    pub(super) woken: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    pub(super) r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

impl Metrics {
    /// Makes them and adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "osm_proxy_connect_count",
            "Proxies connected",
            metrics.sessions.clone(),
        );
        registry.register(
            "osm_proxy_reconnect_count",
            "Streams that took over from an older one of the same proxy",
            metrics.reconnects.clone(),
        );
        registry.register(
            "osm_proxy_xds_request_count",
            "Discovery requests, by type",
            metrics.requests.clone(),
        );
        registry.register(
            "osm_proxy_response_send_success_count",
            "Discovery responses sent, by type",
            metrics.responses.clone(),
        );
        registry.register(
            "weir_xds_nacks",
            "Responses that a proxy refused, by type",
            metrics.nacks.clone(),
        );
        registry.register(
            "weir_xds_refused",
            "Connections and streams refused or ended, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "weir_xds_requests_ignored",
            "Discovery requests that meant nothing, by reason",
            metrics.ignored.clone(),
        );
        registry.register(
            "weir_xds_paced",
            "Connections and streams of proxies that connect too often, made to wait",
            metrics.paced.clone(),
        );
        registry.register(
            "weir_xds_tls_handshakes_failed",
            "TLS handshakes on the xDS port that failed",
            metrics.handshakes_failed.clone(),
        );
        registry.register(
            "weir_snapshot_generation",
            "Generation of the snapshot being served",
            metrics.generation.clone(),
        );
        registry.register(
            "weir_xds_sessions_woken",
            "Sessions woken by changes",
            metrics.woken.clone(),
        );
        metrics
    }

    /// Counts a connection or stream that is refused or ended.
    pub(super) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a request that means nothing.
    pub(super) fn ignore(&self, reason: &'static str) {
        self.ignored.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a connection or stream of a pod that had to wait.
    pub(super) fn paced(&self, what: &'static str, pod: &str, passed: Passed) {
        match passed {
            Passed::AtOnce => {}
            Passed::Late => {
                self.paced.get_or_create(&What { what }).inc();
                // At most as often as the rate says.
                warn!(pod, what, "made a proxy wait that connects too often");
            }
            Passed::Displaced => {
                self.refuse("reconnects");
                debug!(pod, what, "closed it for a newer one that waits");
            }
        }
    }
}
