//! What a sidecar's metrics say, whichever proxy it is.

use super::scrape::Scrape;

/// A sidecar, by what it shows to Prometheus.
pub(crate) struct Sidecar<'a>(pub(crate) &'a Scrape);

impl Sidecar<'_> {
    /// Whether it is Envoy.
    pub(crate) fn is_envoy(&self) -> bool {
        self.0.of("envoy_server_live").next().is_some()
    }

    /// How many certificates it has taken up so far.
    pub(crate) fn certificates(&self) -> f64 {
        match self.is_envoy() {
            true => self
                .0
                .sum("envoy_cluster_client_ssl_socket_factory_ssl_context_update_by_sds"),
            false => self.0.sum("weir_certificate_rotations_total"),
        }
    }

    /// Whether it follows a controller.
    pub(crate) fn connected(&self) -> bool {
        let metric = match self.is_envoy() {
            true => "envoy_control_plane_connected_state",
            false => "weir_xds_connected",
        };
        self.0.sum(metric) == 1.0
    }

    /// How many updates of its configuration it has accepted and refused, of Envoy's count.
    pub(crate) fn updates(&self) -> (f64, f64) {
        let sum = |end: &str| {
            self.0
                .sum_of(|name| name.starts_with("envoy_") && name.ends_with(end))
        };
        (sum("update_success"), sum("update_rejected"))
    }
}
