//! Prometheus' annotations. Prometheus has no certificate of the mesh, so the sidecar is scraped in place of the
//! application, and gives the application's own metrics along with its.

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::PodSpec;

use super::{Exclusions, NamespaceMeta, enabled};

const ANNOTATION_METRICS: &str = "openservicemesh.io/metrics";
const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
/// Port and path of the sidecar's metrics.
const SIDECAR: (u16, &str) = (15010, "/stats/prometheus");

/// Has the sidecar scraped, where its namespace asks for it or the application was to be scraped. Gives the port and
/// path of the application's own metrics, such as `9100/metrics`, where the sidecar is to merge them.
pub(super) fn redirect(
    annotations: &mut BTreeMap<String, String>,
    namespace: &NamespaceMeta,
    spec: &PodSpec,
    exclusions: &Exclusions,
) -> Option<String> {
    let own = match annotations.get(SCRAPE).map(String::as_str) {
        Some("true") => Some(own(annotations, spec, exclusions)?),
        // Whoever says that the pod is not to be scraped means the sidecar too.
        Some(_) => return None,
        None if namespace
            .annotations
            .get(ANNOTATION_METRICS)
            .is_some_and(|it| enabled(it)) =>
        {
            None
        }
        None => return None,
    };
    let (port, path) = SIDECAR;
    for (key, value) in [(SCRAPE, "true"), (PORT, &port.to_string()), (PATH, path)] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    own
}

/// Where the application's metrics are; `None` where Prometheus is to go on asking the application itself: because it
/// reaches it beside the sidecar, or because the sidecar could not.
fn own(annotations: &BTreeMap<String, String>, spec: &PodSpec, exclusions: &Exclusions) -> Option<String> {
    if annotations.get(SCHEME).is_some_and(|scheme| scheme != "http") {
        return None;
    }
    let port = match annotations.get(PORT) {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => declared(spec)?,
    };
    if port == SIDECAR.0 || exclusions.inbound_ports.iter().any(|range| range.contains(&port)) {
        return None;
    }
    let path = annotations.get(PATH).map_or("/metrics", String::as_str);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path: PathAndQuery = format!("{slash}{path}").parse().ok()?;
    Some(format!("{port}{path}"))
}

/// The first port that the pod declares, which is what Prometheus asks where no annotation says.
fn declared(spec: &PodSpec) -> Option<u16> {
    let mut ports = spec.containers.iter().flat_map(|it| it.ports.iter().flatten());
    let tcp = ports.find(|port| port.protocol.as_deref().is_none_or(|it| it == "TCP"))?;
    u16::try_from(tcp.container_port).ok()
}
