use std::{collections::BTreeSet, net::IpAddr};

use prost::Message as _;
use weir_xds::{
    ResourceType,
    envoy::{
        config::{
            cluster::v3::{Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType},
            listener::v3::{Listener, filter::ConfigType},
            route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier},
        },
        extensions::filters::network::{
            http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
            tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier as TcpSpecifier},
        },
    },
};

use super::*;
use crate::{
    catalog::{Backend, Endpoint, ServiceKey},
    certificates::TrustBundle,
};

const POD: [u8; 4] = [10, 0, 0, 1];

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "n".into(),
        name: name.into(),
    }
}

fn service(name: &str, cluster_ip: Option<IpAddr>, number: u16, protocol: Protocol) -> Service {
    let endpoint = Endpoint {
        ip: POD.into(),
        port: number,
        principal: "spiffe://cluster.local/ns/n/sa/a".into(),
        workload: Arc::default(),
    };
    Service {
        key: key(name),
        cluster_ips: cluster_ip.into_iter().collect(),
        ports: vec![ServicePort {
            number,
            name: String::new(),
            protocol,
            endpoints: vec![endpoint],
        }],
        principals: Default::default(),
        split: None,
        reachable: true,
    }
}

fn mesh(services: impl IntoIterator<Item = Service>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut leading = Vec::new();
    for service in services {
        for ip in &service.cluster_ips {
            snapshot.addresses.insert(*ip, service.key.clone());
        }
        leading.push(service.key.clone());
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    }
    snapshot.direct.insert(POD.into(), leading.into());
    snapshot
}

#[test]
fn the_port_tells_which_of_a_pods_services_is_meant() {
    let headless = |name, number| service(name, None, number, Protocol::Tcp);
    let snapshot = mesh([headless("a", 80), headless("b", 81)]);
    let found = |port| match at(&snapshot, SocketAddr::from((POD, port))) {
        Some(At::Port(service, _)) => service.key.name.to_string(),
        Some(At::UnknownPort) => "refused".to_owned(),
        None => "not of the mesh".to_owned(),
    };
    assert_eq!([80, 81, 82].map(found), ["a", "b", "not of the mesh"]);
}

/// What a wildcard subscriber gets of a mesh.
struct Everything {
    snapshot: Snapshot,
    dialect: Dialect,
}

impl Everything {
    fn get<M: prost::Message + Default>(&self, kind: ResourceType, name: &str) -> Option<M> {
        let name = Name::parse(kind, name)?;
        let root = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
        let trust = TrustBundle::from_pem(&root).unwrap();
        let encoded = build(&name, &self.snapshot, &trust, None, self.dialect)?;
        Some(M::decode(encoded.any.value.as_slice()).unwrap())
    }

    fn clusters(&self) -> Vec<String> {
        all_clusters(&self.snapshot, None, self.dialect)
    }

    /// The clusters that the listener of an address leads to.
    fn behind(&self, listener: &str) -> BTreeSet<String> {
        let listener: Listener = self.get(ResourceType::Listener, listener).unwrap();
        let chains = listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain);
        let mut names = BTreeSet::new();
        for filter in chains.flat_map(|chain| &chain.filters) {
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
                panic!("a filter without configuration");
            };
            if any.type_url.ends_with("TcpProxy") {
                names.extend(carriers(&TcpProxy::decode(any.value.as_slice()).unwrap()));
            } else {
                let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
                let routes = match manager.route_specifier.unwrap() {
                    RouteSpecifier::RouteConfig(routes) => routes,
                    RouteSpecifier::Rds(rds) => {
                        self.get(ResourceType::Route, &rds.route_config_name).unwrap()
                    }
                    other => panic!("{other:?}"),
                };
                names.extend(targets(&routes));
            }
        }
        names
    }
}

fn carriers(proxy: &TcpProxy) -> Vec<String> {
    match proxy.cluster_specifier.as_ref().unwrap() {
        TcpSpecifier::Cluster(name) => vec![name.clone()],
        TcpSpecifier::WeightedClusters(all) => all.clusters.iter().map(|one| one.name.clone()).collect(),
    }
}

fn targets(routes: &RouteConfiguration) -> Vec<String> {
    let routes = routes.virtual_hosts.iter().flat_map(|host| &host.routes);
    let named = routes.flat_map(|route| match route.action.as_ref().unwrap() {
        Action::Route(action) => match action.cluster_specifier.as_ref().unwrap() {
            ClusterSpecifier::Cluster(name) => vec![name.clone()],
            ClusterSpecifier::WeightedClusters(all) => {
                all.clusters.iter().map(|one| one.name.clone()).collect()
            }
            other => panic!("{other:?}"),
        },
        _ => Vec::new(),
    });
    named.collect()
}

fn every_kind_of_service() -> Vec<Service> {
    let protocols = [
        Protocol::Http,
        Protocol::Grpc,
        Protocol::Tcp,
        Protocol::TcpServerFirst,
        Protocol::Undeclared,
    ];
    let mut services = Vec::new();
    for (number, protocol) in (1..).zip(protocols) {
        let ip = IpAddr::from([10, 96, 0, number]);
        let mut split = service(&format!("split-{number}"), Some(ip), 80, protocol);
        let backend = |name: String| Backend {
            service: key(&name),
            weight: 1,
        };
        split.split = Some(vec![
            backend(format!("v1-{number}")),
            backend(format!("v2-{number}")),
        ]);
        services.push(split);
        for (version, other) in [(1, protocol), (2, Protocol::Tcp)] {
            let ip = IpAddr::from([10, 96, version, number]);
            services.push(service(&format!("v{version}-{number}"), Some(ip), 80, other));
        }
        services.push(service(
            &format!("headless-{number}"),
            None,
            9000 + u16::from(number),
            protocol,
        ));
    }
    services
}

#[test]
fn a_wildcard_subscriber_gets_every_cluster_that_its_listeners_name() {
    for dialect in [Dialect::Weir, Dialect::Envoy] {
        let mesh = Everything {
            snapshot: mesh(every_kind_of_service()),
            dialect,
        };
        let clusters: BTreeSet<String> = mesh.clusters().into_iter().collect();
        for listener in all_listeners(&mesh.snapshot) {
            if listener.parse::<SocketAddr>().is_ok() {
                let behind = mesh.behind(&listener);
                assert!(
                    !behind.is_empty() && behind.is_subset(&clusters),
                    "{listener}: {behind:?}"
                );
            }
        }
        for name in clusters {
            let cluster: Cluster = mesh.get(ResourceType::Cluster, &name).unwrap();
            let eds = cluster
                .eds_cluster_config
                .map(|eds| match eds.service_name.is_empty() {
                    true => name.clone(),
                    false => eds.service_name,
                });
            if let Some(eds) = eds {
                assert!(
                    Name::parse(ResourceType::Endpoints, &eds).is_some(),
                    "{name}: {eds}"
                );
            }
        }
    }
}

#[test]
fn envoy_reaches_the_pod_that_was_dialled() {
    let mesh = Everything {
        snapshot: mesh([service("db", None, 3306, Protocol::Tcp)]),
        dialect: Dialect::Envoy,
    };
    let behind = mesh.behind("10.0.0.1:3306");
    assert_eq!(behind, BTreeSet::from(["n/db|3306|pod-tcp".to_owned()]));
    let cluster: Cluster = mesh.get(ResourceType::Cluster, "n/db|3306|pod-tcp").unwrap();
    let original = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into());
    assert_eq!(cluster.cluster_discovery_type, Some(original));
    assert!(cluster.transport_socket.is_some());
}

#[test]
fn what_envoy_may_not_pass_leads_nowhere() {
    let mut service = service("db", Some([10, 96, 0, 1].into()), 3306, Protocol::Tcp);
    service.reachable = false;
    let mut snapshot = mesh([service]);
    Arc::make_mut(&mut snapshot.mesh).egress = false;
    let mesh = Everything {
        snapshot,
        dialect: Dialect::Envoy,
    };
    for listener in ["10.96.0.1:3306", "outbound"] {
        let behind = mesh.behind(listener);
        assert_eq!(behind, BTreeSet::from(["refused".to_owned()]));
        assert!(mesh.clusters().iter().all(|cluster| !behind.contains(cluster)));
    }
}
