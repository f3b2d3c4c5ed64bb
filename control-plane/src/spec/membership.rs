//! Who belongs to a mesh: OSM's labels of namespaces, and the sidecar of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// Name of the sidecar container. A pod that has one is in the mesh.
pub const PROXY_CONTAINER: &str = "weir-proxy";

const MONITORED_BY: &str = "openservicemesh.io/monitored-by";
const IGNORE: &str = "openservicemesh.io/ignore";

/// Whether a namespace with these labels belongs to the mesh of this name. The ignore label counts whatever its value.
#[must_use]
pub fn is_monitored(labels: &BTreeMap<String, String>, mesh_name: &str) -> bool {
    let monitored = labels.get(MONITORED_BY).is_some_and(|name| name == mesh_name);
    monitored && !labels.contains_key(IGNORE)
}

/// Whether the pod has the sidecar, native or classic.
#[must_use]
pub fn has_sidecar(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        let init = spec.init_containers.iter().flatten();
        let mut containers = spec.containers.iter().chain(init);
        containers.any(|container| container.name == PROXY_CONTAINER)
    })
}
