//! What each resource contains. Pure: a snapshot in, messages out. Everything here is valid for a stock Envoy
//! that is asked for in its [`Dialect`].

mod cluster;
mod inbound;
mod outbound;
mod parts;
mod rbac;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use prost_types::Any;
use weir_xds::{TypeUrl, pack};

use super::names::{Name, OUTBOUND, Way};
use crate::{
    catalog::{Pod, Protocol, Service, ServicePort, Snapshot},
    certificates::TrustBundle,
};

/// A resource as it goes over the wire, and the hash of it that is its version. Equal content has an equal
/// version, in every replica and after every restart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Encoded {
    /// First 64 bits of the SHA-256 of the encoded message.
    pub(super) version: u64,
    /// The message.
    pub(super) any: Any,
}

/// What kind of proxy asks. Most resources are the same for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Dialect {
    /// `weir-proxy`: asks for what it uses, chooses the application protocol of a connection to another sidecar itself,
    /// holds its own certificate, and resets what comes to a listener without chains.
    #[default]
    Weir,
    /// A stock Envoy, which does none of this: it gets everything, a cluster for each way to reach a service, its
    /// certificate from files, and a chain that denies everybody where nothing may pass.
    Envoy,
}

/// The resource of a name, or `None` when there is none. Names that differ from pod to pod need the pod.
pub(super) fn build(
    name: &Name,
    snapshot: &Snapshot,
    trust: &TrustBundle,
    pod: Option<&Pod>,
    dialect: Dialect,
) -> Option<Encoded> {
    let mesh = &snapshot.mesh;
    match name {
        Name::Inbound => Some(encode(&inbound::listener(pod?, mesh, dialect))),
        Name::InboundRoutes(port) => inbound::routes(pod?, *port).map(|routes| encode(&routes)),
        Name::Local(port) => cluster::local(pod?, *port).map(|cluster| encode(&cluster)),
        Name::Outbound => Some(encode(&outbound::entry(mesh, dialect))),
        Name::Address(address) => match at(snapshot, *address)? {
            At::Port(service, port) => {
                let port = outbound::Port {
                    service,
                    port,
                    dialect,
                };
                Some(encode(&outbound::address(*address, port)))
            }
            At::UnknownPort => Some(encode(&outbound::refusing(*address, dialect))),
        },
        Name::Routes(key, number) => {
            let service = snapshot.services.get(key)?;
            outbound::routes(service, port(service, *number)?).map(|routes| encode(&routes))
        }
        Name::Passthrough => Some(encode(&cluster::passthrough())),
        Name::Cluster(_, _, way) if *way != Way::Requests && dialect == Dialect::Weir => None,
        Name::Cluster(key, number, way) => {
            let service = snapshot.services.get(key)?;
            let port = port(service, *number)?;
            Some(encode(&cluster::service(service, port, mesh, dialect, *way)))
        }
        Name::Endpoints(key, number) => {
            let service = snapshot.services.get(key)?;
            Some(encode(&cluster::endpoints(service, port(service, *number)?)))
        }
        Name::TrustBundle => Some(encode(&parts::trust_bundle(trust))),
    }
}

/// Every listener, for a subscriber of all.
pub(super) fn all_listeners(snapshot: &Snapshot) -> Vec<String> {
    let mut names = vec![super::names::INBOUND.to_owned(), OUTBOUND.to_owned()];
    for service in snapshot.services.values() {
        for port in &service.ports {
            let cluster = service
                .cluster_ips
                .iter()
                .map(|ip| SocketAddr::new(*ip, port.number));
            // The pods of other services are there for whoever asks for one.
            let headless = port.endpoints.iter().filter(|_| service.cluster_ips.is_empty());
            let headless = headless.map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port));
            names.extend(cluster.chain(headless).map(|address| address.to_string()));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Every cluster, for a subscriber of all.
pub(super) fn all_clusters(snapshot: &Snapshot, pod: Option<&Pod>, dialect: Dialect) -> Vec<String> {
    let mut names = vec![super::names::PASSTHROUGH.to_owned()];
    names.extend(
        pod.iter()
            .flat_map(|pod| &pod.inbound)
            .map(|inbound| parts::local_name(inbound.port)),
    );
    for service in snapshot.services.values() {
        for port in &service.ports {
            let name = |way: &Way| way.cluster_name(&service.key, port.number);
            names.extend(ways(service, dialect).iter().map(name));
        }
    }
    names
}

/// The ways to a service that its listeners and routes name. Also a port without HTTP has one for requests: a split
/// may lead from a port that has it.
fn ways(service: &Service, dialect: Dialect) -> &'static [Way] {
    match (dialect, service.cluster_ips.is_empty()) {
        (Dialect::Weir, _) => &[Way::Requests],
        (Dialect::Envoy, false) => &[Way::Requests, Way::Bytes],
        (Dialect::Envoy, true) => &[Way::Requests, Way::Bytes, Way::RequestsToPod, Way::BytesToPod],
    }
}

/// What an address of the mesh leads to.
pub(super) enum At<'a> {
    Port(&'a Arc<Service>, &'a ServicePort),
    UnknownPort,
}

/// What an address leads to: a ClusterIP to its service, that of a pod to the pod itself.
pub(super) fn at(snapshot: &Snapshot, address: SocketAddr) -> Option<At<'_>> {
    if let Some(key) = snapshot.addresses.get(&address.ip()) {
        let service = snapshot.services.get(key)?;
        return Some(port(service, address.port()).map_or(At::UnknownPort, |port| At::Port(service, port)));
    }
    // A pod's other ports are none of the services' business.
    let leading = snapshot.direct.get(&address.ip())?;
    let services = leading.iter().filter_map(|key| snapshot.services.get(key));
    let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let serves = |port: &ServicePort| {
        let here =
            |endpoint: &crate::catalog::Endpoint| SocketAddr::new(endpoint.ip, endpoint.port) == address;
        port.endpoints.iter().any(here)
    };
    ports
        .find(|(_, port)| serves(port))
        .map(|(service, port)| At::Port(service, port))
}

fn port(service: &Service, number: u16) -> Option<&ServicePort> {
    service.ports.iter().find(|port| port.number == number)
}

fn is_http(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::Grpc)
}

fn encode<M: TypeUrl>(message: &M) -> Encoded {
    let any = pack(message);
    let hash = digest(&SHA256, &any.value);
    let version = hash
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Encoded { version, any }
}
