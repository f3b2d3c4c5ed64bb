//! Resource names: what each one stands for, and what it depends on.

use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use weir_xds::ResourceType;

use crate::catalog::ServiceKey;

/// The inbound listener.
pub(super) const INBOUND: &str = "inbound";
/// The outbound listener.
pub(super) const OUTBOUND: &str = "outbound";
/// The cluster that dials the original destination.
pub(super) const PASSTHROUGH: &str = "passthrough-outbound";
/// The roots.
pub(super) const TRUST_BUNDLE: &str = "trust-bundle";
/// The proxy's own certificate, which the proxy provides itself.
pub(super) const WORKLOAD_CERT: &str = "workload-cert";

/// The name that subscribes to everything of a type.
pub(super) const WILDCARD: &str = "*";

/// A type's place in tables of all types.
pub(super) fn index(kind: ResourceType) -> usize {
    match kind {
        ResourceType::Cluster => 0,
        ResourceType::Endpoints => 1,
        ResourceType::Secret => 2,
        ResourceType::Listener => 3,
        ResourceType::Route => 4,
    }
}

/// What a resource name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// LDS `inbound`: the session's pod.
    Inbound,
    /// LDS `outbound`.
    Outbound,
    /// LDS `<ip>:<port>`.
    Address(SocketAddr),
    /// RDS `inbound|<port>`: the session's pod.
    InboundRoutes(u16),
    /// RDS `<ns>/<svc>|<port>`.
    Routes(ServiceKey, u16),
    /// CDS `local|<port>`: the session's pod.
    Local(u16),
    /// CDS `passthrough-outbound`.
    Passthrough,
    /// CDS `<ns>/<svc>|<port>`, and with `|` and a suffix of [`Way`].
    Cluster(ServiceKey, u16, Way),
    /// EDS `<ns>/<svc>|<port>`.
    Endpoints(ServiceKey, u16),
    /// SDS `trust-bundle`.
    TrustBundle,
}

/// How a cluster reaches its service. `weir-proxy` knows how by itself and asks for [`Way::Requests`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// HTTP, to any of its pods.
    Requests,
    /// Bytes, to any of its pods.
    Bytes,
    /// HTTP, to the pod that the client dialled.
    RequestsToPod,
    /// Bytes, to the pod that the client dialled.
    BytesToPod,
}

impl Way {
    const SUFFIXED: [(&'static str, Self); 3] = [
        ("|tcp", Self::Bytes),
        ("|pod", Self::RequestsToPod),
        ("|pod-tcp", Self::BytesToPod),
    ];

    /// Whether it carries bytes that nobody looks into.
    pub(super) fn is_bytes(self) -> bool {
        matches!(self, Self::Bytes | Self::BytesToPod)
    }

    /// Whether the client's address decides, and not the balancer.
    pub(super) fn is_to_pod(self) -> bool {
        matches!(self, Self::RequestsToPod | Self::BytesToPod)
    }

    /// The cluster's name: `<ns>/<svc>|<port>` and the suffix.
    pub(super) fn cluster_name(self, service: &ServiceKey, port: u16) -> String {
        let suffixed = Self::SUFFIXED.iter().find(|(_, way)| *way == self);
        let suffix = suffixed.map_or("", |(suffix, _)| suffix);
        service_port_name(service, port) + suffix
    }

    /// The way that a name ends in, and what is before it.
    fn split(name: &str) -> (&str, Self) {
        let mut ways = Self::SUFFIXED.iter();
        ways.find_map(|(suffix, way)| Some((name.strip_suffix(suffix)?, *way)))
            .unwrap_or((name, Self::Requests))
    }
}

/// A part of the mesh that resources are made of. When it changes, those who subscribed to it are woken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// MeshConfig: everything depends on it.
    Mesh,
    /// The trust bundle.
    Trust,
    /// A service.
    Service(ServiceKey),
    /// Whatever an address belongs to.
    Address(IpAddr),
    /// The session's own pod.
    Pod(Arc<str>),
}

impl Name {
    /// What a name of this type stands for; `None`: nothing that could ever exist.
    pub(super) fn parse(kind: ResourceType, name: &str) -> Option<Self> {
        match kind {
            ResourceType::Listener => match name {
                INBOUND => Some(Self::Inbound),
                OUTBOUND => Some(Self::Outbound),
                address => address.parse().ok().map(Self::Address),
            },
            ResourceType::Route => match name.strip_prefix("inbound|") {
                Some(port) => port.parse().ok().map(Self::InboundRoutes),
                None => service_port(name).map(|(key, port)| Self::Routes(key, port)),
            },
            ResourceType::Cluster => match (name, name.strip_prefix("local|")) {
                (PASSTHROUGH, _) => Some(Self::Passthrough),
                (_, Some(port)) => port.parse().ok().map(Self::Local),
                _ => {
                    let (name, way) = Way::split(name);
                    service_port(name).map(|(key, port)| Self::Cluster(key, port, way))
                }
            },
            ResourceType::Endpoints => service_port(name).map(|(key, port)| Self::Endpoints(key, port)),
            ResourceType::Secret => (name == TRUST_BUNDLE).then_some(Self::TrustBundle),
        }
    }

    /// What it depends on besides MeshConfig, for a session of this pod.
    pub(super) fn topic(&self, pod: &Arc<str>) -> Topic {
        self.shared_topic().unwrap_or_else(|| Topic::Pod(pod.clone()))
    }

    /// What it depends on besides MeshConfig; `None`: on the pod of the session.
    pub(super) fn shared_topic(&self) -> Option<Topic> {
        Some(match self {
            Self::Inbound | Self::InboundRoutes(_) | Self::Local(_) => return None,
            Self::Outbound | Self::Passthrough => Topic::Mesh,
            Self::Address(address) => Topic::Address(address.ip()),
            Self::Routes(key, _) | Self::Cluster(key, ..) | Self::Endpoints(key, _) => {
                Topic::Service(key.clone())
            }
            Self::TrustBundle => Topic::Trust,
        })
    }

    /// Whether its content differs from pod to pod.
    pub(super) fn is_per_pod(&self) -> bool {
        self.shared_topic().is_none()
    }
}

/// `<ns>/<svc>|<port>`.
pub(super) fn service_port_name(service: &ServiceKey, port: u16) -> String {
    format!("{service}|{port}")
}

fn service_port(name: &str) -> Option<(ServiceKey, u16)> {
    let (service, port) = name.rsplit_once('|')?;
    let (namespace, name) = service.split_once('/')?;
    let key = ServiceKey {
        namespace: namespace.into(),
        name: name.into(),
    };
    Some((key, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_stand_for() {
        let key = ServiceKey {
            namespace: "shop".into(),
            name: "books".into(),
        };
        let listener = |name| Name::parse(ResourceType::Listener, name);
        assert_eq!(listener("inbound"), Some(Name::Inbound));
        assert_eq!(
            listener("[fd00::1]:80"),
            Some(Name::Address("[fd00::1]:80".parse().unwrap()))
        );
        assert_eq!(listener("example.com:80"), None);
        assert_eq!(
            Name::parse(ResourceType::Route, "inbound|80"),
            Some(Name::InboundRoutes(80))
        );
        assert_eq!(
            Name::parse(ResourceType::Cluster, "shop/books|80"),
            Some(Name::Cluster(key.clone(), 80, Way::Requests))
        );
        for way in [Way::Requests, Way::Bytes, Way::RequestsToPod, Way::BytesToPod] {
            assert_eq!(
                Name::parse(ResourceType::Cluster, &way.cluster_name(&key, 80)),
                Some(Name::Cluster(key.clone(), 80, way))
            );
        }
        assert_eq!(
            Name::parse(ResourceType::Cluster, "local|80"),
            Some(Name::Local(80))
        );
        assert_eq!(
            Name::parse(ResourceType::Endpoints, &service_port_name(&key, 80)),
            Some(Name::Endpoints(key, 80))
        );
        assert_eq!(Name::parse(ResourceType::Endpoints, "shop/books|70000"), None);
        assert_eq!(Name::parse(ResourceType::Secret, WORKLOAD_CERT), None);
    }
}
