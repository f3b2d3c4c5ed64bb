//! Services joined with the endpoints and pods behind them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1,
    discovery::v1::{self as v1_discovery, EndpointSlice},
};

use super::{
    Endpoint, Protocol, Service, ServiceKey, ServicePort, Workload,
    inbound::{Inbound, PodPort},
    pods::{PodInfo, Pods, Reference},
    protocol,
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
    let mut diagnostics = Vec::new();
    if is_external_name(spec) {
        external_name(name, spec, stored, egress, &mut diagnostics);
        return Joined {
            external: true,
            diagnostics,
            ..Joined::default()
        };
    }
    let key = key(name);
    let mut joining = Joining {
        key: &key,
        pods,
        leads: BTreeMap::new(),
        references: BTreeSet::new(),
        source: &stored.source,
        diagnostics,
        principals: BTreeSet::new(),
    };
    let ports = joining.ports(spec, slices);
    let Joining {
        leads,
        references,
        diagnostics,
        principals,
        ..
    } = joining;
    Joined {
        service: Some(Service {
            key,
            cluster_ips: cluster_ips(spec),
            ports,
            principals,
            split: None,
            reachable: false,
        }),
        external: false,
        leads,
        references,
        diagnostics,
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
    diagnostics: &mut Vec<Diagnostic>,
) {
    let target = spec.external_name.as_deref().unwrap_or_default();
    if egress || target.trim_end_matches('.').ends_with(".svc.cluster.local") {
        return;
    }
    let finding = Finding::warning(
        "spec.externalName",
        format!(
            "{target} is outside the mesh and MeshConfig traffic.enableEgress is off; connections to it are refused"
        ),
        "turn enableEgress on, or exclude its addresses with outboundIPRangeExclusionList",
    );
    diagnostics.push(stored.source.diagnostic(format!("Service {name}"), finding));
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

/// A pod of both families counts once in balancing: by the service's own first family, if it has an address of that.
/// Each address of a headless service is dialled for itself, so there both stay.
fn one_address_a_pod(endpoints: &mut Vec<Endpoint>, prefer_ipv4: bool) {
    let is_preferred = |endpoint: &Endpoint| endpoint.ip.is_ipv4() == prefer_ipv4;
    let preferred = endpoints.iter().filter(|endpoint| is_preferred(endpoint));
    let pods: HashSet<Arc<Workload>> = preferred.map(|endpoint| endpoint.workload.clone()).collect();
    endpoints.retain(|endpoint| is_preferred(endpoint) || !pods.contains(&endpoint.workload));
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

/// One service being joined.
struct Joining<'a> {
    key: &'a ServiceKey,
    pods: &'a Pods,
    leads: BTreeMap<PodPort, Protocol>,
    references: BTreeSet<Reference>,
    source: &'a Source,
    diagnostics: Vec<Diagnostic>,
    principals: BTreeSet<Arc<str>>,
}

impl<'a> Joining<'a> {
    fn ports<'s>(
        &mut self,
        spec: &v1::ServiceSpec,
        slices: impl Iterator<Item = &'s EndpointSlice> + Clone,
    ) -> Vec<ServicePort> {
        let mut ports: Vec<ServicePort> = Vec::new();
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let Ok(number) = u16::try_from(port.port) else {
                self.report(Finding::error(
                    format!("spec.ports[{index}].port"),
                    format!("{} is not a port; it is left out", port.port),
                    "write a port from 1 to 65535",
                ));
                continue;
            };
            if !is_tcp(port.protocol.as_deref()) {
                continue;
            }
            if ports.iter().any(|other| other.number == number) {
                self.report(Finding::warning(
                    format!("spec.ports[{index}].port"),
                    format!("port {number} is there already; the first one counts"),
                    "remove one of them",
                ));
                continue;
            }
            let name = port.name.clone().unwrap_or_default();
            let protocol = self.protocol(index, port, &name);
            let mut endpoints = self.endpoints(&name, protocol, slices.clone());
            if let Some(family) = cluster_ips(spec).first() {
                one_address_a_pod(&mut endpoints, family.is_ipv4());
            }
            ports.push(ServicePort {
                number,
                name,
                protocol,
                endpoints,
            });
        }
        ports.sort_by_key(|port| port.number);
        if ports.is_empty() && spec.ports.iter().flatten().next().is_none() {
            self.report(Finding::warning(
                "spec.ports",
                "the Service has no ports; nothing can be reached by it in the mesh",
                "declare the ports of its pods",
            ));
        }
        ports
    }

    fn protocol(&mut self, index: usize, port: &v1::ServicePort, name: &str) -> Protocol {
        let app_protocol = port.app_protocol.as_deref();
        protocol::of_port(app_protocol, name).unwrap_or_else(|| {
            self.report(Finding::warning(
                format!("spec.ports[{index}].appProtocol"),
                format!(
                    "{} is not known; the protocol is told by the first bytes",
                    app_protocol.unwrap_or_default()
                ),
                "write http, grpc, tcp or tcp-server-first",
            ));
            Protocol::Undeclared
        })
    }

    /// The endpoints of a port, and on the way the principals and the inbound ports of their pods. Where none is ready,
    /// those that still serve while they end.
    fn endpoints<'s>(
        &mut self,
        name: &str,
        protocol: Protocol,
        slices: impl Iterator<Item = &'s EndpointSlice>,
    ) -> Vec<Endpoint> {
        let mut endpoints: BTreeMap<(IpAddr, u16), &'a PodInfo> = BTreeMap::new();
        let mut ending: BTreeMap<(IpAddr, u16), &'a PodInfo> = BTreeMap::new();
        for slice in slices {
            let target = target_port(slice, name);
            for endpoint in &slice.endpoints {
                let state = EndpointState::of(endpoint);
                let addresses = endpoint.addresses.iter();
                for ip in addresses.filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                    let Some((pod, info)) = self.pod(endpoint, ip) else {
                        continue;
                    };
                    if !self.principals.contains(&info.principal) {
                        self.principals.insert(info.principal.clone());
                    }
                    let Some(target) = target.filter(|_| info.meshed) else {
                        continue;
                    };
                    self.leads.entry((pod.clone(), target)).or_insert(protocol);
                    match state {
                        EndpointState::Ready => endpoints.insert((ip, target), info),
                        EndpointState::Ending => ending.insert((ip, target), info),
                        EndpointState::Unready => None,
                    };
                }
            }
        }
        let endpoint = |((ip, port), info): ((IpAddr, u16), &PodInfo)| Endpoint {
            ip,
            port,
            principal: info.principal.clone(),
            workload: info.workload.clone(),
        };
        let usable = if endpoints.is_empty() { ending } else { endpoints };
        usable.into_iter().map(endpoint).collect()
    }

    /// The pod of an endpoint's address.
    fn pod(
        &mut self,
        endpoint: &v1_discovery::Endpoint,
        ip: IpAddr,
    ) -> Option<(&'a ObjectName, &'a PodInfo)> {
        let named = endpoint.target_ref.as_ref();
        let named = named.filter(|target| target.kind.as_deref().unwrap_or("Pod") == "Pod");
        let reference = match named.and_then(|target| target.name.as_deref()) {
            Some(name) => Reference::Name(ObjectName {
                namespace: self.key.namespace.clone(),
                name: name.into(),
            }),
            None => Reference::Address(ip),
        };
        let found = self.pods.find(&self.key.namespace, &reference, ip);
        self.references.insert(reference);
        found
    }

    fn report(&mut self, finding: Finding) {
        self.diagnostics
            .push(self.source.diagnostic(format!("Service {}", self.key), finding));
    }
}

/// How far an endpoint can be used. One of a Service with `publishNotReadyAddresses` is ready by definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointState {
    Ready,
    /// Its pod ends, and answers until it has.
    Ending,
    Unready,
}

impl EndpointState {
    fn of(endpoint: &v1_discovery::Endpoint) -> Self {
        let Some(conditions) = &endpoint.conditions else {
            return Self::Ready;
        };
        let ready = conditions.ready.unwrap_or(true);
        let ending = conditions.terminating.unwrap_or(false) && conditions.serving.unwrap_or(ready);
        match (ready, ending) {
            (true, _) => Self::Ready,
            (false, true) => Self::Ending,
            (false, false) => Self::Unready,
        }
    }
}

/// The port of a slice's endpoints that a Service's port of this name leads to.
fn target_port(slice: &EndpointSlice, name: &str) -> Option<u16> {
    let ports = slice.ports.iter().flatten();
    ports
        .filter(|port| is_tcp(port.protocol.as_deref()) && port.name.as_deref().unwrap_or_default() == name)
        .find_map(|port| u16::try_from(port.port?).ok())
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.unwrap_or("TCP") == "TCP"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_both_families_counts_once() {
        let endpoint = |ip: &str, pod: &str| Endpoint {
            ip: ip.parse().unwrap(),
            port: 80,
            principal: "spiffe://cluster.local/ns/n/sa/a".into(),
            workload: Arc::new(Workload {
                pod: pod.to_owned(),
                ..Workload::default()
            }),
        };
        let all = [
            endpoint("10.0.0.1", "both"),
            endpoint("fd00::1", "both"),
            endpoint("fd00::2", "only-6"),
        ];
        let kept = |prefer_ipv4| {
            let mut endpoints = all.to_vec();
            one_address_a_pod(&mut endpoints, prefer_ipv4);
            endpoints
                .iter()
                .map(|endpoint| endpoint.ip.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(true), ["10.0.0.1", "fd00::2"]);
        assert_eq!(kept(false), ["fd00::1", "fd00::2"]);
    }
}
