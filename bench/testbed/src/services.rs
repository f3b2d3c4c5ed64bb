//! Services: addresses, endpoints, names, and the packet rules that make a ClusterIP work.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weir_init::nftables::{Action, Hook, Match, Protocol, Rule, Table};
use weir_init::rules::Family;

use crate::manifests::Key;

/// The DNS suffix of the cluster.
const DOMAIN: &str = "cluster.local";

/// A pod behind a Service.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) pod: Pod,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

/// A Service with what has been found out about it.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) service: Service,
    /// Its ClusterIPs; empty for a headless one.
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Whether the manifest asks for no ClusterIP.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether `service` selects `pod`. A Service without a selector selects nothing.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty()
        && pod.metadata.namespace == service.metadata.namespace
        && selector
            .iter()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The pod's port that a Service port leads to.
pub(crate) fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let containers = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten());
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name))
                .and_then(|port| u16::try_from(port.container_port).ok())
        }
    }
}

fn meta(service: &Service) -> Key {
    (
        service.metadata.namespace.clone().unwrap_or_default(),
        service.metadata.name.clone().unwrap_or_default(),
    )
}

/// The hosts file of a pod in `namespace`: its own names, and all Services' names. Shorter names are those
/// that a cluster's DNS search list would find from that namespace.
pub(crate) fn hosts_file(
    namespace: &str,
    own: &[(IpAddr, String)],
    services: &BTreeMap<Key, Resolved>,
) -> String {
    let mut out = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for (ip, name) in own {
        out.push_str(&format!("{ip} {name}\n"));
    }
    let mut names = |ips: &mut dyn Iterator<Item = IpAddr>, name: &str, service_ns: &str| {
        let mut all = format!("{name}.{service_ns}.svc.{DOMAIN} {name}.{service_ns}.svc {name}.{service_ns}");
        if service_ns == namespace {
            all.push(' ');
            all.push_str(name);
        }
        for ip in ips {
            out.push_str(&format!("{ip} {all}\n"));
        }
    };
    for ((service_ns, name), resolved) in services {
        if !resolved.cluster_ips.is_empty() {
            names(&mut resolved.cluster_ips.iter().copied(), name, service_ns);
            continue;
        }
        let all = resolved
            .service
            .spec
            .as_ref()
            .and_then(|spec| spec.publish_not_ready_addresses)
            == Some(true);
        for endpoint in resolved.endpoints.iter().filter(|endpoint| endpoint.ready || all) {
            names(&mut endpoint.ips.iter().copied(), name, service_ns);
            let spec = endpoint.pod.spec.as_ref();
            if let Some(host) = spec.and_then(|spec| spec.hostname.as_ref())
                && spec.and_then(|spec| spec.subdomain.as_ref()) == Some(name)
            {
                names(
                    &mut endpoint.ips.iter().copied(),
                    &format!("{host}.{name}"),
                    service_ns,
                );
            }
        }
    }
    out
}

/// kube-proxy's table for one family: each ClusterIP and port to its ready endpoints; a pod that reaches
/// itself through a Service sees the node as the client, or it would drop its own address as forged.
pub(crate) fn proxy_table(family: Family, services: &BTreeMap<Key, Resolved>) -> Table {
    let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    let mut table = Table::new(family, "weir-services");
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let chain = table.hook(name, hook);
        for resolved in services.values() {
            for ip in resolved.cluster_ips.iter().copied().filter(of_family) {
                let ports = resolved
                    .service
                    .spec
                    .iter()
                    .flat_map(|spec| spec.ports.iter().flatten());
                for port in ports {
                    let Some((protocol, number)) = protocol(port) else {
                        continue;
                    };
                    let endpoints: Vec<SocketAddr> = resolved
                        .endpoints
                        .iter()
                        .filter(|endpoint| endpoint.ready)
                        .filter_map(|endpoint| {
                            let ip = endpoint.ips.iter().copied().find(of_family)?;
                            Some(SocketAddr::new(ip, target(port, &endpoint.pod)?))
                        })
                        .collect();
                    let (namespace, name) = meta(&resolved.service);
                    chain.dnat_one_of(
                        &format!("{namespace}/{name}:{number}"),
                        &[
                            Match::Protocol(protocol),
                            Match::Destination(IpNet::from(ip)),
                            Match::DestinationPort {
                                first: number,
                                last: number,
                            },
                        ],
                        &endpoints,
                    );
                }
            }
        }
    }
    let mut behind: Vec<IpAddr> = services
        .values()
        .filter(|resolved| !resolved.cluster_ips.is_empty())
        .flat_map(|resolved| {
            resolved
                .endpoints
                .iter()
                .flat_map(|endpoint| endpoint.ips.iter().copied())
        })
        .filter(of_family)
        .collect();
    behind.sort();
    behind.dedup();
    let chain = table.hook("postrouting", Hook::Postrouting);
    for ip in behind {
        let net = IpNet::from(ip);
        chain.rule(Rule::new(
            format!("{ip} to itself"),
            vec![Match::Source(net), Match::Destination(net)],
            Action::Masquerade,
        ));
    }
    table
}

fn protocol(port: &ServicePort) -> Option<(Protocol, u16)> {
    let number = u16::try_from(port.port).ok()?;
    match port.protocol.as_deref() {
        None | Some("TCP") => Some((Protocol::Tcp, number)),
        Some("UDP") => Some((Protocol::Udp, number)),
        Some(_) => None,
    }
}

/// The addresses a dual-stack Service gets, in the order Kubernetes lists them.
pub(crate) fn cluster_ips((v4, v6): (Ipv4Addr, Ipv6Addr), ipv6: bool) -> Vec<IpAddr> {
    if ipv6 {
        vec![v4.into(), v6.into()]
    } else {
        vec![v4.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved() -> BTreeMap<Key, Resolved> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "shop", "labels": {"app": "web", "x": "y"}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        }))
        .unwrap();
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap();
        assert!(selects(&service, &pod));
        let endpoint = Endpoint {
            pod,
            ips: vec![IpAddr::from([10, 244, 0, 2])],
            ready: true,
            serving: true,
            terminating: false,
        };
        let ips = vec![IpAddr::from([10, 96, 0, 10])];
        BTreeMap::from([(
            meta(&service),
            Resolved {
                service,
                cluster_ips: ips,
                endpoints: vec![endpoint],
            },
        )])
    }

    #[test]
    fn names_of_the_own_namespace_are_short() {
        let services = resolved();
        let at_home = hosts_file("shop", &[], &services);
        assert!(
            at_home.contains("10.96.0.10 web.shop.svc.cluster.local web.shop.svc web.shop web\n"),
            "{at_home}"
        );
        let abroad = hosts_file("other", &[], &services);
        assert!(abroad.contains("web.shop\n"), "{abroad}");
    }

    #[test]
    fn a_named_target_port_is_the_pods_own() {
        let services = resolved();
        let one = services.values().next().unwrap();
        let port = &one.service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0];
        assert_eq!(target(port, &one.endpoints[0].pod), Some(8080));
    }

    #[test]
    fn only_ready_endpoints_are_reached() {
        let mut services = resolved();
        let with = proxy_table(Family::V4, &services);
        services
            .values_mut()
            .for_each(|one| one.endpoints[0].ready = false);
        assert_ne!(with, proxy_table(Family::V4, &services));
    }
}
