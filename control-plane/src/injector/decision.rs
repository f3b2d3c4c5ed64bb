//! Whether a pod gets a sidecar: OSM's labels and annotations, with OSM's precedence.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod};

use super::{InjectError, Settings, switch};
use crate::spec::is_monitored;

const LABEL_CONTROL_PLANE: &str = "control-plane";
const ANNOTATION_INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// What the injector needs to know of a namespace.
#[derive(Clone, Debug, Default)]
pub struct NamespaceMeta {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl NamespaceMeta {
    /// What a namespace says of itself.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        let metadata = &namespace.metadata;
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            annotations: metadata.annotations.clone().unwrap_or_default(),
        }
    }
}

/// Whether a pod gets a sidecar, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets one.
    Inject,
    /// Its namespace is not the mesh's, or never may be.
    OutsideMesh,
    /// Neither it nor its namespace asks for one, or it asks for none.
    NotWanted,
    /// It shares the node's network, which must not be redirected.
    HostNetwork,
}

/// Decides whether a pod gets a sidecar.
///
/// # Errors
/// When the injection annotation of the pod or of its namespace is not understood.
pub fn decide(pod: &Pod, namespace: &NamespaceMeta, settings: &Settings) -> Result<Decision, InjectError> {
    if !in_mesh(namespace, settings) {
        return Ok(Decision::OutsideMesh);
    }
    if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return Ok(Decision::HostNetwork);
    }
    let nothing = BTreeMap::new();
    let own = pod.metadata.annotations.as_ref().unwrap_or(&nothing);
    let wanted = match switch(own, ANNOTATION_INJECTION)? {
        Some(wanted) => wanted,
        None => switch(&namespace.annotations, ANNOTATION_INJECTION)?.unwrap_or(false),
    };
    Ok(match wanted {
        true => Decision::Inject,
        false => Decision::NotWanted,
    })
}

fn in_mesh(namespace: &NamespaceMeta, settings: &Settings) -> bool {
    let reserved = ["kube-system", "kube-public", settings.mesh_namespace.as_str()];
    let labels = &namespace.labels;
    !reserved.contains(&namespace.name.as_str())
        && !labels.contains_key(LABEL_CONTROL_PLANE)
        && is_monitored(labels, &settings.mesh_name)
}
