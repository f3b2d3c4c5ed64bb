mod shapes;

use std::{fs, path::Path, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    endpoints::{Objects, Store},
    spec::{Diagnostic, Severity},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo");

fn settings() -> Settings {
    Settings {
        mesh_name: "osm".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        namespace: "weir-system".to_owned(),
    }
}

/// A pod with a sidecar, ready, behind the services of its namespace that are named.
fn pod(namespace: &str, name: &str, account: &str, ip: u8) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}-h-x, namespace: {namespace}, uid: uid-{name}, \
         labels: {{pod-template-hash: h}}, ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, \
         name: {name}-h, uid: rs, controller: true}}]}}, spec: {{serviceAccountName: {account}, containers: \
         [{{name: app}}], initContainers: [{{name: weir-proxy}}]}}, status: {{podIP: 10.0.0.{ip}}}}}\n"
    )
}

fn slice(namespace: &str, service: &str, port: (&str, u16), endpoints: &[(u8, bool)]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(ip, ready)| format!("{{addresses: [10.0.0.{ip}], conditions: {{ready: {ready}}}}}"))
        .collect();
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {service}, \
         namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}, ports: [{{name: {}, port: {}}}], \
         endpoints: [{}]}}\n",
        port.0,
        port.1,
        endpoints.join(", ")
    )
}

fn cluster() -> String {
    let books = ("http-books", 14001);
    [
        pod("bookbuyer", "bookbuyer", "bookbuyer", 1),
        pod("bookthief", "bookthief", "bookthief", 2),
        pod("bookstore", "bookstore-v1", "bookstore", 3),
        pod("bookstore", "bookstore-v2", "bookstore-v2", 4),
        pod("bookwarehouse", "bookwarehouse", "bookwarehouse", 5),
        pod("bookwarehouse", "mysql", "mysql", 6),
        slice("bookstore", "bookstore", books, &[(3, true), (4, true)]),
        slice("bookstore", "bookstore-v1", books, &[(3, true)]),
        slice("bookstore", "bookstore-v2", books, &[(4, true)]),
        slice("bookwarehouse", "bookwarehouse", ("books", 14001), &[(5, true)]),
        slice("bookwarehouse", "mysql", ("mysql", 3306), &[(6, true)]),
    ]
    .concat()
}

fn demo(file: &str) -> String {
    fs::read_to_string(Path::new(DEMO).join(file)).unwrap()
}

/// The demo with some of its policies.
fn bookstore(permissive: bool, policies: &[&str]) -> Store {
    let mut store = Store::new(2);
    for entry in fs::read_dir(Path::new(DEMO).join("manifests")).unwrap() {
        let path = entry.unwrap().path();
        store.put(0, &path.to_string_lossy(), &fs::read_to_string(&path).unwrap());
    }
    let mesh =
        demo("manifests/mesh-config.yaml").replace("PolicyMode: true", &format!("PolicyMode: {permissive}"));
    store.put(1, "mesh.yaml", &mesh);
    store.put(1, "cluster.yaml", &cluster());
    for policy in policies {
        store.put(1, policy, &demo(&format!("policies/{policy}.yaml")));
    }
    store
}

fn built(objects: &Objects) -> (Snapshot, Vec<Diagnostic>) {
    let snapshot = build(None, objects, &settings());
    let diagnostics = snapshot.diagnostics.to_vec();
    (snapshot, diagnostics)
}

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey {
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// Who may make requests or connections to the first port of a pod.
fn principals(snapshot: &Snapshot, uid: &str) -> Vec<String> {
    let pod = &snapshot.pods.get(uid).unwrap();
    let Authorization::Rules { tcp, .. } = &*pod.inbound[0].authorization else {
        return vec!["anyone".to_owned()];
    };
    let mut names: Vec<String> = tcp
        .iter()
        .flat_map(|rule| &rule.rule.principals)
        .map(|it| it.rsplit('/').next().unwrap().to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn bookstore_permissive() {
    let (snapshot, diagnostics) = built(&bookstore(true, &[]).objects());
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    assert!(snapshot.services.values().all(|service| service.reachable));
    assert_eq!(snapshot.services.len(), 5);
    assert_eq!(principals(&snapshot, "uid-bookstore-v1"), ["anyone"]);
    let apex = &snapshot.services.get(&key("bookstore", "bookstore")).unwrap();
    assert_eq!(apex.ports[0].protocol, Protocol::Http);
    assert_eq!((apex.ports[0].endpoints.len(), apex.principals.len()), (2, 2));
    let endpoint = &apex.ports[0].endpoints[0];
    assert_eq!(
        (endpoint.workload.kind.as_str(), endpoint.workload.name.as_str()),
        ("Deployment", "bookstore-v1")
    );
    let mysql = key("bookwarehouse", "mysql");
    assert_eq!(
        snapshot.services.get(&mysql).unwrap().ports[0].protocol,
        Protocol::Tcp
    );
    let ip = "10.0.0.6".parse::<std::net::IpAddr>().unwrap();
    assert_eq!(**snapshot.direct.get(&ip).unwrap(), [mysql]);
    let inbound = &snapshot.pods.get("uid-bookstore-v1").unwrap().inbound;
    assert_eq!(inbound.len(), 1);
    assert_eq!(inbound[0].services.len(), 2);
}

#[test]
fn bookstore_phases_of_policy() {
    let (closed, diagnostics) = built(&bookstore(false, &[]).objects());
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    assert!(closed.services.values().all(|service| !service.reachable));
    assert!(principals(&closed, "uid-bookstore-v1").is_empty());

    let (buyer, diagnostics) = built(&bookstore(false, &["routes", "allow-bookbuyer"]).objects());
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    assert!(
        buyer
            .services
            .get(&key("bookstore", "bookstore"))
            .unwrap()
            .reachable
    );
    assert!(
        !buyer
            .services
            .get(&key("bookwarehouse", "mysql"))
            .unwrap()
            .reachable
    );
    assert_eq!(principals(&buyer, "uid-bookstore-v1"), ["bookbuyer"]);

    let policies = [
        "routes",
        "allow-bookbuyer",
        "allow-bookthief",
        "allow-warehouse",
        "split",
    ];
    let (all, diagnostics) = built(&bookstore(false, &policies).objects());
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    assert_eq!(principals(&all, "uid-bookstore-v2"), ["bookbuyer", "bookthief"]);
    assert_eq!(principals(&all, "uid-mysql"), ["bookwarehouse"]);
    assert!(
        all.services
            .get(&key("bookstore", "bookstore"))
            .unwrap()
            .split
            .is_some()
    );
}

#[test]
fn what_did_not_change_is_the_same_arc() {
    let store = bookstore(false, &["routes", "allow-bookbuyer"]);
    let (first, _) = built(&store.objects());
    let store = bookstore(false, &["routes", "allow-bookbuyer", "split"]);
    let second = build(Some(&first), &store.objects(), &settings());
    assert_eq!(second.generation, 2);
    for (name, service) in &second.services {
        let split = name == &key("bookstore", "bookstore");
        assert_eq!(
            Arc::ptr_eq(service, first.services.get(name).unwrap()),
            !split,
            "{name}"
        );
    }
    for (uid, pod) in &second.pods {
        assert!(Arc::ptr_eq(pod, first.pods.get(uid).unwrap()), "{uid}");
    }
}

fn split(name: &str, backends: &str) -> String {
    format!(
        "apiVersion: split.smi-spec.io/v1alpha2\nkind: TrafficSplit\nmetadata:\n  name: {name}\n  namespace: \
         bookstore\nspec:\n  service: bookstore.bookstore\n  backends:\n{backends}"
    )
}

#[test]
fn a_split_without_its_service_gives_the_rest_its_share() {
    let mut store = bookstore(true, &[]);
    let backends = "  - service: gone\n    weight: 9\n  - service: bookstore-v2\n    weight: 1\n";
    store.put(0, "s.yaml", &split("s", backends));
    let (snapshot, diagnostics) = built(&store.objects());
    let apex = &snapshot.services.get(&key("bookstore", "bookstore")).unwrap();
    assert_eq!(apex.split.as_ref().unwrap().len(), 1);
    assert_eq!(diagnostics.len(), 1);
    let found = &diagnostics[0];
    assert_eq!(
        (found.severity, &*found.file, found.line),
        (Severity::Error, "s.yaml", 9)
    );
    assert_eq!(found.field, "spec.backends[0].service");
}

#[test]
fn of_two_splits_the_first_by_name_counts() {
    let mut store = bookstore(true, &[]);
    store.put(
        0,
        "1.yaml",
        &split("b", "  - {service: bookstore-v1, weight: 1}\n"),
    );
    store.put(
        0,
        "2.yaml",
        &split("a", "  - {service: bookstore-v2, weight: 1}\n"),
    );
    let (snapshot, diagnostics) = built(&store.objects());
    let apex = &snapshot.services.get(&key("bookstore", "bookstore")).unwrap();
    assert_eq!(&*apex.split.as_ref().unwrap()[0].service.name, "bookstore-v2");
    assert_eq!((diagnostics.len(), &*diagnostics[0].file), (1, "1.yaml"));
}

#[test]
fn a_target_that_names_a_missing_route_opens_nothing() {
    let store = bookstore(false, &["allow-bookbuyer"]);
    let (snapshot, diagnostics) = built(&store.objects());
    assert!(principals(&snapshot, "uid-bookstore-v1").is_empty());
    assert!(snapshot.services.values().all(|service| !service.reachable));
    assert_eq!(diagnostics.len(), 2);
    assert!(
        diagnostics
            .iter()
            .all(|it| it.field == "spec.rules[0].name" && it.severity == Severity::Error)
    );
}

#[test]
fn protocols_are_declared_by_app_protocol_then_name() {
    let of = protocol::of_port;
    assert_eq!(of(Some("grpc"), "http-a"), Some(Protocol::Grpc));
    assert_eq!(of(None, "http-books"), Some(Protocol::Http));
    assert_eq!(of(None, "tcp-server-first-a"), Some(Protocol::TcpServerFirst));
    assert_eq!(of(None, "tcp-server"), Some(Protocol::Tcp));
    assert_eq!(of(None, "books"), Some(Protocol::Undeclared));
    assert_eq!(of(None, ""), Some(Protocol::Undeclared));
    assert_eq!(of(Some("https"), ""), Some(Protocol::Tcp));
    assert_eq!(of(Some("what"), "http"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a file of policies becomes, nothing panics and services that it does not split stay as they are.
    #[test]
    fn a_spoiled_policy_harms_nobody_else(at in 0.0..1.0_f64, with in "[ -~\n]{0,6}") {
        let mut store = bookstore(false, &["routes", "allow-bookbuyer"]);
        let (before, _) = built(&store.objects());
        let mut text = demo("policies/split.yaml");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let place = (at * text.len() as f64) as usize;
        if text.is_char_boundary(place) {
            text.insert_str(place, &with);
        }
        store.put(1, "spoiled.yaml", &text);
        let after = build(Some(&before), &store.objects(), &settings());
        for (name, service) in &before.services {
            if &*name.name != "bookstore" {
                let now = &after.services.get(name).unwrap();
                prop_assert!(now.split.is_some() || Arc::ptr_eq(service, now));
            }
        }
        prop_assert_eq!(&before.pods, &after.pods);
    }
}
