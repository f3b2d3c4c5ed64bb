//! What the injector puts into every pod.

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::{Envoy, Exclusions};
use crate::spec::{LocalProxyMode, MeshConfigSpec};

/// What the injector puts into every pod, from the installation and from MeshConfig.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Mesh name: namespaces labelled `openservicemesh.io/monitored-by` with it are the mesh's.
    pub mesh_name: String,
    /// Namespace of the control plane, which is never injected.
    pub mesh_namespace: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// PEM certificates by which sidecars know the controller.
    pub trust_bundle: String,
    /// Image of the sidecar.
    pub proxy_image: String,
    /// Envoy as the sidecar; `None`: `weir-proxy`.
    pub envoy: Option<Envoy>,
    /// Image of the init container.
    pub init_image: String,
    /// When the images are pulled: `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Redirect exclusions for every pod.
    pub exclusions: Exclusions,
    /// Resources of the sidecar.
    pub resources: Option<ResourceRequirements>,
    /// Run the init container privileged (for platforms where NET_ADMIN is not enough).
    pub privileged_init: bool,
    /// The application is reached at the pod's address instead of loopback.
    pub local_proxy_pod_ip: bool,
    /// Whether the cluster runs native sidecars (Kubernetes 1.29 and later).
    pub native_sidecars: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mesh_name: "osm".to_owned(),
            mesh_namespace: "weir-system".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            trust_bundle: String::new(),
            proxy_image: "weir-proxy:latest".to_owned(),
            envoy: None,
            init_image: "weir-init:latest".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            log_level: "error".to_owned(),
            exclusions: Exclusions::default(),
            resources: None,
            privileged_init: false,
            local_proxy_pod_ip: false,
            native_sidecars: true,
        }
    }
}

impl Settings {
    /// These with what MeshConfig says. What it gives in a form that is not understood is left out here: the
    /// [`validator`](crate::validator) reports it.
    #[must_use]
    pub fn with_mesh_config(&self, spec: &MeshConfigSpec) -> Self {
        let (sidecar, traffic) = (&spec.sidecar, &spec.traffic);
        let ranges = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = |ports: &[u16]| ports.iter().map(|port| *port..=*port).collect();
        Self {
            log_level: sidecar
                .log_level
                .clone()
                .unwrap_or_else(|| self.log_level.clone()),
            exclusions: Exclusions {
                inbound_ports: ports(&traffic.inbound_port_exclusion_list),
                outbound_ports: ports(&traffic.outbound_port_exclusion_list),
                outbound_ranges: ranges(&traffic.outbound_ip_range_exclusion_list),
                outbound_inclusions: ranges(&traffic.outbound_ip_range_inclusion_list),
                interfaces: traffic.network_interface_exclusion_list.clone(),
            },
            resources: sidecar.resources.clone().or_else(|| self.resources.clone()),
            privileged_init: sidecar.enable_privileged_init_container,
            local_proxy_pod_ip: sidecar.local_proxy_mode == Some(LocalProxyMode::PodIP),
            ..self.clone()
        }
    }
}
