//! The ports of a service, and the endpoints and pods behind each.

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
    Endpoint, Protocol, ServiceKey, ServicePort, Workload,
    inbound::PodPort,
    pods::{PodInfo, Pods, Reference},
    protocol,
};
use crate::spec::{Diagnostic, Finding, ObjectName, Source};

/// What is behind a service.
#[derive(Default)]
pub(super) struct Behind {
    /// By number.
    pub(super) ports: Vec<ServicePort>,
    /// Of its pods.
    pub(super) principals: BTreeSet<Arc<str>>,
    /// The target ports of pods that it leads to, and what it declares to be spoken there.
    pub(super) leads: BTreeMap<PodPort, Protocol>,
    /// What its endpoints name, whether it is there or not.
    pub(super) references: BTreeSet<Reference>,
    /// What is wrong with it.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// A service being joined.
pub(super) struct Joining<'a> {
    key: &'a ServiceKey,
    pods: &'a Pods,
    source: &'a Source,
    behind: Behind,
}

impl<'a> Joining<'a> {
    pub(super) fn new(key: &'a ServiceKey, pods: &'a Pods, source: &'a Source) -> Self {
        Self {
            key,
            pods,
            source,
            behind: Behind::default(),
        }
    }

    /// Finds what is behind it; `first`: the first address that it claims, if any.
    pub(super) fn behind<'s>(
        mut self,
        spec: &v1::ServiceSpec,
        first: Option<&IpAddr>,
        slices: impl Iterator<Item = &'s EndpointSlice> + Clone,
    ) -> Behind {
        self.behind.ports = self.ports(spec, first, slices);
        self.behind
    }

    fn ports<'s>(
        &mut self,
        spec: &v1::ServiceSpec,
        first: Option<&IpAddr>,
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
            if let Some(first) = first {
                one_address_a_pod(&mut endpoints, first.is_ipv4());
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
                    if !self.behind.principals.contains(&info.principal) {
                        self.behind.principals.insert(info.principal.clone());
                    }
                    let Some(target) = target.filter(|_| info.meshed) else {
                        continue;
                    };
                    self.behind.leads.entry((pod.clone(), target)).or_insert(protocol);
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
        self.behind.references.insert(reference);
        found
    }

    fn report(&mut self, finding: Finding) {
        let found = self.source.diagnostic(format!("Service {}", self.key), finding);
        self.behind.diagnostics.push(found);
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

/// A pod of both families counts once in balancing: by the service's own first family, if it has an address of that.
/// Each address of a headless service is dialled for itself, so there both stay.
fn one_address_a_pod(endpoints: &mut Vec<Endpoint>, prefer_ipv4: bool) {
    let is_preferred = |endpoint: &Endpoint| endpoint.ip.is_ipv4() == prefer_ipv4;
    let preferred = endpoints.iter().filter(|endpoint| is_preferred(endpoint));
    let pods: HashSet<Arc<Workload>> = preferred.map(|endpoint| endpoint.workload.clone()).collect();
    endpoints.retain(|endpoint| is_preferred(endpoint) || !pods.contains(&endpoint.workload));
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
