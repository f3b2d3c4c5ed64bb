//! Services joined with the endpoints and pods behind them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1,
    discovery::v1::{self as v1_discovery, EndpointSlice},
};

use super::{Endpoint, Protocol, Service, ServiceKey, ServicePort, Workload, pods::Pods, protocol};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Finding, ObjectName, Source, Stored},
    table::Table,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What services lead to: target port → what is spoken there and the services, by pod.
pub(super) type Inbound = BTreeMap<u16, (Protocol, Vec<ServiceKey>)>;

/// Services before policy.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) by_key: BTreeMap<ServiceKey, Service>,
    /// By index of the pod.
    pub(super) inbound: Vec<Inbound>,
    pub(super) addresses: HashMap<IpAddr, ServiceKey>,
}

/// Joins the services of monitored namespaces.
pub(super) fn join(
    objects: &Objects,
    monitored: &HashSet<&str>,
    pods: &Pods<'_>,
    egress: bool,
    diagnostics: &mut Vec<Diagnostic>,
) -> Services {
    let mut services = Services {
        inbound: vec![Inbound::new(); pods.all.len()],
        ..Services::default()
    };
    let slices = slices(objects);
    for (name, stored) in objects.services.iter() {
        let Some(spec) = &stored.value.spec else {
            continue;
        };
        if !monitored.contains(&*name.namespace) {
            continue;
        }
        if is_external_name(spec) {
            external_name(name, spec, stored, egress, diagnostics);
            continue;
        }
        let key = ServiceKey {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        let behind = slices
            .get(&(&*name.namespace, &*name.name))
            .map_or(&[][..], Vec::as_slice);
        let mut joining = Joining {
            key: &key,
            pods,
            inbound: &mut services.inbound,
            source: &stored.source,
            diagnostics,
            principals: BTreeSet::new(),
        };
        let ports = joining.ports(spec, behind);
        let principals = joining.principals;
        let cluster_ips = cluster_ips(spec);
        for ip in &cluster_ips {
            services.addresses.entry(*ip).or_insert_with(|| key.clone());
        }
        let service = Service {
            key: key.clone(),
            cluster_ips,
            ports,
            principals,
            split: None,
            reachable: false,
        };
        services.by_key.insert(key, service);
    }
    services
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

/// The services that lead to each address of a ready pod, as [`Snapshot::direct`](super::Snapshot::direct) has them.
pub(super) fn direct(services: &BTreeMap<ServiceKey, Service>) -> Table<IpAddr, Arc<[ServiceKey]>> {
    let mut direct: HashMap<IpAddr, Vec<ServiceKey>> = HashMap::new();
    for rank in 0..3 {
        for service in services.values().filter(|service| self::rank(service) == rank) {
            for endpoint in service.ports.iter().flat_map(|port| &port.endpoints) {
                let leading = direct.entry(endpoint.ip).or_default();
                if leading.last() != Some(&service.key) {
                    leading.push(service.key.clone());
                }
            }
        }
    }
    direct
        .into_iter()
        .map(|(ip, leading)| (ip, leading.into()))
        .collect()
}

fn rank(service: &Service) -> u8 {
    match (service.cluster_ips.is_empty(), service.split.is_some()) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    }
}

/// EndpointSlices by the service they belong to.
fn slices(objects: &Objects) -> HashMap<(&str, &str), Vec<&EndpointSlice>> {
    let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for (name, slice) in objects.endpoint_slices.iter() {
        let labels = slice.value.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            slices
                .entry((&name.namespace, service))
                .or_default()
                .push(&slice.value);
        }
    }
    slices
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
struct Joining<'a, 'p> {
    key: &'a ServiceKey,
    pods: &'a Pods<'p>,
    inbound: &'a mut Vec<Inbound>,
    source: &'a Source,
    diagnostics: &'a mut Vec<Diagnostic>,
    principals: BTreeSet<Arc<str>>,
}

impl Joining<'_, '_> {
    fn ports(&mut self, spec: &v1::ServiceSpec, slices: &[&EndpointSlice]) -> Vec<ServicePort> {
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
            let mut endpoints = self.endpoints(&name, protocol, slices);
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
    fn endpoints(&mut self, name: &str, protocol: Protocol, slices: &[&EndpointSlice]) -> Vec<Endpoint> {
        let mut endpoints: BTreeMap<(IpAddr, u16), usize> = BTreeMap::new();
        let mut ending: BTreeMap<(IpAddr, u16), usize> = BTreeMap::new();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let target = ports
                .filter(|port| {
                    is_tcp(port.protocol.as_deref()) && port.name.as_deref().unwrap_or_default() == name
                })
                .find_map(|port| u16::try_from(port.port?).ok());
            for endpoint in &slice.endpoints {
                let named = endpoint.target_ref.as_ref();
                let named = named.filter(|target| target.kind.as_deref().unwrap_or("Pod") == "Pod");
                let named = named.and_then(|target| target.name.as_deref());
                let state = EndpointState::of(endpoint);
                for ip in endpoint
                    .addresses
                    .iter()
                    .filter_map(|ip| ip.parse::<IpAddr>().ok())
                {
                    let Some(index) = self.pods.find(&self.key.namespace, named, ip) else {
                        continue;
                    };
                    let pod = &self.pods.all[index];
                    if !self.principals.contains(&pod.principal) {
                        self.principals.insert(pod.principal.clone());
                    }
                    let Some(target) = target.filter(|_| pod.meshed) else {
                        continue;
                    };
                    self.leads_to(index, target, protocol);
                    match state {
                        EndpointState::Ready => endpoints.insert((ip, target), index),
                        EndpointState::Ending => ending.insert((ip, target), index),
                        EndpointState::Unready => None,
                    };
                }
            }
        }
        let endpoint = |((ip, port), index): ((IpAddr, u16), usize)| {
            let pod = &self.pods.all[index];
            Endpoint {
                ip,
                port,
                principal: pod.principal.clone(),
                workload: pod.workload.clone(),
            }
        };
        let usable = if endpoints.is_empty() { ending } else { endpoints };
        usable.into_iter().map(endpoint).collect()
    }

    /// Notes that the service leads to a port of a pod. Services come by name, so the first one's protocol counts.
    fn leads_to(&mut self, pod: usize, target: u16, protocol: Protocol) {
        let (first, services) = self.inbound[pod]
            .entry(target)
            .or_insert_with(|| (protocol, Vec::new()));
        let disagrees = *first != protocol;
        if services.last() == Some(self.key) {
            return;
        }
        let first_service = services.first().cloned();
        services.push(self.key.clone());
        if let Some(first_service) = first_service.filter(|_| disagrees) {
            let finding = Finding::warning(
                "spec.ports",
                format!(
                    "service {first_service} declares another protocol for target port {target}; that one counts"
                ),
                "declare the same appProtocol in both",
            );
            let object = format!("Service {}", self.key);
            let diagnostic = self.source.diagnostic(object, finding);
            // One is enough for all the pods of a service.
            if !self.diagnostics.contains(&diagnostic) {
                self.diagnostics.push(diagnostic);
            }
        }
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
