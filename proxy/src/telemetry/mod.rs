//! Metrics. The data path takes handles ahead of time, so that counting is an atomic addition: no lock, no text,
//! and no map but for what the proxy refuses. What others already keep (the certificate, the stream's state) is
//! read when Prometheus scrapes.

mod config;
mod connections;
mod metered;
mod requests;
mod tls;

use std::{sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, metrics::info::Info, registry::Registry};
use tokio::sync::watch;

pub use connections::{Connections, Protocol};
pub use metered::{Metered, Open};
pub use requests::{DESTINATIONS, Measured, RequestMetrics, Requests};
pub use tls::Handshakes;

use crate::{identity, model::Workload, xds};

/// The content type of [`Telemetry::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every metric of the proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Arc<Mutex<Registry>>,
    /// Requests of this pod, by destination.
    pub requests: Requests,
    /// Client connections, and what the proxy itself refused or answered.
    pub connections: Connections,
    /// TLS handshakes.
    pub handshakes: Handshakes,
}

impl Telemetry {
    /// All families of the data path, for the proxy of this pod.
    pub fn new(pod: Workload) -> Self {
        let mut registry = Registry::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("weir_build", "The version that runs", version);
        let requests = Requests::new(pod);
        registry.register_collector(Box::new(requests.clone()));
        Self {
            requests,
            connections: Connections::register(&mut registry),
            handshakes: Handshakes::register(&mut registry),
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Adds the families of the certificate that the control plane signs. Once.
    pub fn follow_certificate(&self, status: watch::Receiver<identity::Status>) {
        let collector = Box::new(tls::OwnCertificate(status));
        self.registry.lock().register_collector(collector);
    }

    /// Adds the families of the configuration stream. Once.
    pub fn follow_config(&self, status: xds::Status) {
        let started = SystemTime::now();
        let collector = Box::new(config::ConfigStream { status, started });
        self.registry.lock().register_collector(collector);
    }

    /// Adds the number of endpoints of each cluster, as `count` tells it at every scrape. Once.
    pub fn follow_endpoints(&self, count: impl Fn() -> Vec<(String, usize)> + Send + Sync + 'static) {
        let collector = Box::new(config::EndpointCounts(count));
        self.registry.lock().register_collector(collector);
    }

    /// Everything in OpenMetrics text, to be served as [`CONTENT_TYPE`]; it ends with `# EOF`, as the format
    /// demands.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            // Writing into a string cannot fail, and no metric refuses to be written.
            Err(std::fmt::Error) => "# EOF\n".to_owned(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(Workload::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_openmetrics() {
        let text = Telemetry::default().render();
        let version = env!("CARGO_PKG_VERSION");
        assert!(
            text.contains(&format!("weir_build_info{{version=\"{version}\"}} 1\n")),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
