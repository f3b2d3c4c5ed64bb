//! Services, joined with what is behind them, before policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};

use super::{
    Protocol, Service, ServiceKey,
    endpoints::Joining,
    inbound::{Inbound, PodPort},
    pods::{Pods, Reference},
};
use crate::{
    spec::{Diagnostic, Finding, ObjectName, Source, Stored},
    table::Table,
};

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Services before policy.
pub(super) type Services = BTreeMap<ServiceKey, Joined>;

/// A service, joined with what is behind it.
#[derive(Clone, Debug, Default)]
pub(super) struct Joined {
    /// Without its split, and reachable by no one; `None`: there is nothing behind it that could be.
    pub(super) service: Option<Service>,
    /// Whether it is but a name for one elsewhere.
    external: bool,
    /// The target ports of pods that it leads to, and what it declares to be spoken there.
    pub(super) leads: BTreeMap<PodPort, Protocol>,
    /// What its endpoints name, whether it is there or not.
    pub(super) references: BTreeSet<Reference>,
    /// What is wrong with it.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Joined {
    /// The addresses that it claims.
    pub(super) fn cluster_ips(&self) -> &[IpAddr] {
        self.service.as_ref().map_or(&[], |service| &service.cluster_ips)
    }

    /// Whether a split that names the one can name the other.
    pub(super) fn has_shape_of(&self, other: &Self) -> bool {
        let ports = |it: &Self| {
            let service = it.service.as_ref();
            service.map(|service| service.ports.iter().map(|port| port.number).collect::<Vec<_>>())
        };
        self.external == other.external && ports(self) == ports(other)
    }
}

/// One that has endpoints in the mesh.
pub(super) fn get<'a>(services: &'a Services, key: &ServiceKey) -> Option<&'a Service> {
    services.get(key)?.service.as_ref()
}

/// Joins a service of a monitored namespace with its endpoints and their pods.
pub(super) fn join<'a>(
    name: &ObjectName,
    stored: &Stored<v1::Service>,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    pods: &Pods,
    egress: bool,
) -> Joined {
    let Some(spec) = &stored.value.spec else {
        return Joined::default();
    };
    if is_external_name(spec) {
        return Joined {
            external: true,
            diagnostics: external_name(name, spec, stored, egress).into_iter().collect(),
            ..Joined::default()
        };
    }
    let key = key(name);
    let cluster_ips = cluster_ips(spec);
    let joining = Joining::new(&key, pods, &stored.source);
    let behind = joining.behind(spec, cluster_ips.first(), slices);
    Joined {
        service: Some(Service {
            key,
            cluster_ips,
            ports: behind.ports,
            principals: behind.principals,
            split: None,
            reachable: false,
        }),
        external: false,
        leads: behind.leads,
        references: behind.references,
        diagnostics: behind.diagnostics,
    }
}

/// The name of a Service.
pub(super) fn key(name: &ObjectName) -> ServiceKey {
    ServiceKey {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

/// The name of its object.
pub(super) fn name(key: &ServiceKey) -> ObjectName {
    ObjectName {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// The service that an EndpointSlice belongs to.
pub(super) fn of_slice(name: &ObjectName, slice: &EndpointSlice) -> Option<ServiceKey> {
    let labels = slice.metadata.labels.as_ref()?;
    Some(ServiceKey {
        namespace: name.namespace.clone(),
        name: labels.get(SERVICE_NAME)?.as_str().into(),
    })
}

/// What is wrong with a service as others see it: it leads to ports of pods where another declared another protocol.
pub(super) fn disagreements(
    key: &ServiceKey,
    source: &Source,
    joined: &Joined,
    inbound: &Inbound,
) -> Vec<Diagnostic> {
    let found = joined.leads.iter().filter_map(|(port, protocol)| {
        let (first, counts) = inbound.get(port)?.first_key_value()?;
        (counts != protocol).then_some((first, port.1))
    });
    // One is enough for all the pods of a service.
    let found: BTreeSet<(&ServiceKey, u16)> = found.collect();
    let tell = |(first, target)| {
        let finding = Finding::warning(
            "spec.ports",
            format!("service {first} declares another protocol for target port {target}; that one counts"),
            "declare the same appProtocol in both",
        );
        source.diagnostic(format!("Service {key}"), finding)
    };
    found.into_iter().map(tell).collect()
}

/// Whether a service is but another name for one elsewhere.
pub(super) fn is_external_name(spec: &v1::ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// What such a service names is dialled by the address that the name resolves to. One of the mesh is served as ever;
/// any other is outside of it.
fn external_name(
    name: &ObjectName,
    spec: &v1::ServiceSpec,
    stored: &Stored<v1::Service>,
    egress: bool,
) -> Option<Diagnostic> {
    let target = spec.external_name.as_deref().unwrap_or_default();
    if egress || target.trim_end_matches('.').ends_with(".svc.cluster.local") {
        return None;
    }
    let finding = Finding::warning(
        "spec.externalName",
        format!(
            "{target} is outside the mesh and MeshConfig traffic.enableEgress is off; connections to it are refused"
        ),
        "turn enableEgress on, or exclude its addresses with outboundIPRangeExclusionList",
    );
    Some(stored.source.diagnostic(format!("Service {name}"), finding))
}

/// The addresses of the ready pods behind a service.
pub(super) fn endpoint_ips(service: &Service) -> BTreeSet<IpAddr> {
    let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
    endpoints.map(|endpoint| endpoint.ip).collect()
}

/// The services that lead to an address, as [`Snapshot::direct`](super::Snapshot::direct) has them.
pub(super) fn leading<'a>(
    keys: impl Iterator<Item = &'a ServiceKey>,
    services: &Table<ServiceKey, Arc<Service>>,
) -> Vec<ServiceKey> {
    let rank = |key: &ServiceKey| services.get(key).map(|service| rank(service));
    let mut keys: Vec<ServiceKey> = keys.cloned().collect();
    keys.sort_by_cached_key(|key| (rank(key), key.clone()));
    keys
}

/// Whose a connection to a pod's address is rather: the lowest.
pub(super) fn rank(service: &Service) -> u8 {
    match (service.cluster_ips.is_empty(), service.split.is_some()) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    }
}

fn cluster_ips(spec: &v1::ServiceSpec) -> Vec<IpAddr> {
    let several = spec.cluster_ips.iter().flatten();
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in spec
        .cluster_ip
        .iter()
        .chain(several)
        .filter_map(|ip| ip.parse().ok())
    {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}
