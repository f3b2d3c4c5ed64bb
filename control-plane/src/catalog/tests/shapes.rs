//! The shapes that services and their endpoints take in a cluster.

use std::net::IpAddr;

use super::*;

const NAMESPACE: &str = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {openservicemesh.io/monitored-by: osm}}}\n";

fn meshed(name: &str, account: &str, ips: &[&str]) -> String {
    let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: ns, uid: uid-{name}}}, spec: \
         {{serviceAccountName: {account}, containers: [{{name: app}}, {{name: weir-proxy}}]}}, status: {{podIPs: [{}]}}}}\n",
        ips.join(", ")
    )
}

fn service(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: ns}}, spec: {{{spec}}}}}\n"
    )
}

/// `ports` and `endpoints` as in an EndpointSlice.
fn endpoints(service: &str, slice: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {slice}, \
         namespace: ns, labels: {{kubernetes.io/service-name: {service}}}}}, ports: [{ports}], endpoints: [{endpoints}]}}\n"
    )
}

fn of_pod(name: &str, ip: &str, conditions: &str) -> String {
    format!(
        "{{addresses: [\"{ip}\"], targetRef: {{kind: Pod, name: {name}}}, hostname: {name}, conditions: {{{conditions}}}}}"
    )
}

fn joined(documents: &[String]) -> (Snapshot, Vec<Diagnostic>) {
    let mut store = Store::new(1);
    store.put(0, "a.yaml", &(NAMESPACE.to_owned() + &documents.concat()));
    built(&store.objects())
}

/// `ip:port` of the endpoints of a service's first port.
fn dialled(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let port = &snapshot.services.get(&key("ns", service)).unwrap().ports[0];
    port.endpoints
        .iter()
        .map(|it| format!("{}:{}", it.ip, it.port))
        .collect()
}

fn direct(snapshot: &Snapshot, ip: &str) -> Vec<String> {
    let leading = snapshot.direct.get(&ip.parse::<IpAddr>().unwrap());
    leading
        .into_iter()
        .flat_map(|keys| keys.iter())
        .map(|key| key.name.to_string())
        .collect()
}

#[test]
fn each_pod_of_a_stateful_set_is_reached_by_its_address() {
    let both = [
        of_pod("db-0", "10.0.0.1", "ready: true"),
        of_pod("db-1", "10.0.0.2", "ready: true"),
    ]
    .join(", ");
    let (snapshot, diagnostics) = joined(&[
        meshed("db-0", "db", &["10.0.0.1"]),
        meshed("db-1", "db", &["10.0.0.2"]),
        service(
            "a-clients",
            "clusterIP: 10.96.0.1, ports: [{name: tcp-sql, port: 80, targetPort: 5432}]",
        ),
        service("db", "clusterIP: None, ports: [{name: tcp-sql, port: 5432}]"),
        service(
            "db-raft",
            "clusterIP: None, ports: [{name: tcp-raft, port: 7000}]",
        ),
        endpoints("a-clients", "a-1", "{name: tcp-sql, port: 5432}", &both),
        endpoints("db", "db-1", "{name: tcp-sql, port: 5432}", &both),
        endpoints("db-raft", "raft-1", "{name: tcp-raft, port: 7000}", &both),
    ]);
    assert_eq!(diagnostics, []);
    assert_eq!(direct(&snapshot, "10.0.0.2"), ["db", "db-raft", "a-clients"]);
    assert_eq!(dialled(&snapshot, "db"), ["10.0.0.1:5432", "10.0.0.2:5432"]);
    assert_eq!(snapshot.addresses.len(), 1);
    let ports: Vec<u16> = snapshot
        .pods
        .get("uid-db-1")
        .unwrap()
        .inbound
        .iter()
        .map(|it| it.port)
        .collect();
    assert_eq!(ports, [5432, 7000]);
}

#[test]
fn a_named_port_may_be_another_in_each_pod() {
    let (snapshot, _) = joined(&[
        meshed("old", "a", &["10.0.0.1"]),
        meshed("new", "a", &["10.0.0.2"]),
        service(
            "s",
            "clusterIP: 10.96.0.1, ports: [{name: web, port: 80, targetPort: web}, {name: adm, port: 81}]",
        ),
        endpoints(
            "s",
            "s-1",
            "{name: adm, port: 9}, {name: web, port: 8080}",
            &of_pod("old", "10.0.0.1", "ready: true"),
        ),
        endpoints(
            "s",
            "s-2",
            "{name: web, port: 8081}",
            &of_pod("new", "10.0.0.2", "ready: true"),
        ),
    ]);
    assert_eq!(dialled(&snapshot, "s"), ["10.0.0.1:8080", "10.0.0.2:8081"]);
    let admin = &snapshot.services.get(&key("ns", "s")).unwrap().ports[1];
    assert_eq!(
        (admin.number, admin.endpoints.len(), admin.endpoints[0].port),
        (81, 1, 9)
    );
}

#[test]
fn endpoints_that_end_serve_as_long_as_there_is_no_other() {
    let ending = of_pod(
        "old",
        "10.0.0.1",
        "ready: false, serving: true, terminating: true",
    );
    let sick = of_pod(
        "sick",
        "10.0.0.3",
        "ready: false, serving: false, terminating: true",
    );
    let with = |new: &str| {
        let new = of_pod("new", "10.0.0.2", new);
        let (snapshot, _) = joined(&[
            meshed("old", "a", &["10.0.0.1"]),
            meshed("new", "a", &["10.0.0.2"]),
            meshed("sick", "a", &["10.0.0.3"]),
            service("s", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
            endpoints("s", "s-1", "{port: 80}", &format!("{ending}, {sick}, {new}")),
        ]);
        assert_eq!(
            snapshot.pods.get("uid-new").unwrap().inbound.len(),
            1,
            "ready or not, it serves"
        );
        dialled(&snapshot, "s")
    };
    assert_eq!(with("ready: false"), ["10.0.0.1:80"]);
    assert_eq!(with("ready: true"), ["10.0.0.2:80"]);
    // What publishNotReadyAddresses makes of a pod that ends.
    assert_eq!(
        with("ready: true, serving: false, terminating: true"),
        ["10.0.0.2:80"]
    );
}

#[test]
fn a_pod_of_two_families_is_one_pod_and_two_addresses() {
    let dual = |spec: &str| {
        let (snapshot, _) = joined(&[
            meshed("a", "a", &["10.0.0.1", "fd00::1"]),
            service("s", &format!("{spec}, ports: [{{port: 80}}]")),
            endpoints("s", "s-4", "{port: 80}", &of_pod("a", "10.0.0.1", "ready: true")),
            endpoints("s", "s-6", "{port: 80}", &of_pod("a", "fd00::1", "ready: true")),
        ]);
        let addresses = snapshot.services.get(&key("ns", "s")).unwrap().cluster_ips.len();
        (addresses, dialled(&snapshot, "s"))
    };
    let both = "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, \"fd01::1\"]";
    assert_eq!(dual(both), (2, vec!["10.0.0.1:80".to_owned()]));
    let headless = vec!["10.0.0.1:80".to_owned(), "fd00::1:80".to_owned()];
    assert_eq!(dual("clusterIP: None"), (0, headless));
}

#[test]
fn an_address_is_not_taken_for_a_later_pod_of_the_same_name() {
    let (snapshot, _) = joined(&[
        meshed("db-0", "db", &["10.0.0.9"]),
        service("db", "clusterIP: None, ports: [{port: 80}]"),
        endpoints(
            "db",
            "db-1",
            "{port: 80}",
            &[
                of_pod("db-0", "10.0.0.1", "ready: true"),
                of_pod("db-0", "10.0.0.9", "ready: true"),
            ]
            .join(", "),
        ),
    ]);
    assert_eq!(dialled(&snapshot, "db"), ["10.0.0.9:80"]);
}

#[test]
fn an_external_name_is_passed_through_or_said_to_be_refused() {
    let mesh = |egress: bool| {
        format!(
            "---\n{{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {{name: osm-mesh-config, \
             namespace: weir-system}}, spec: {{traffic: {{enableEgress: {egress}}}}}}}\n"
        )
    };
    let services = [
        service("far", "type: ExternalName, externalName: db.example.com"),
        service(
            "near",
            "type: ExternalName, externalName: s.other.svc.cluster.local",
        ),
        service("s", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
    ]
    .concat();
    let (snapshot, diagnostics) = joined(&[mesh(true), services.clone()]);
    assert_eq!((snapshot.services.len(), diagnostics), (1, vec![]));
    let (_, diagnostics) = joined(&[mesh(false), services.clone()]);
    assert_eq!(diagnostics.len(), 1);
    assert!(
        diagnostics[0].object == "Service ns/far" && diagnostics[0].message.contains("enableEgress is off")
    );

    let split = "---\n{apiVersion: split.smi-spec.io/v1alpha2, kind: TrafficSplit, metadata: {name: t, namespace: ns}, \
                 spec: {service: s, backends: [{service: far, weight: 1}]}}\n";
    let (snapshot, diagnostics) = joined(&[mesh(true), services, split.to_owned()]);
    assert!(snapshot.services.get(&key("ns", "s")).unwrap().split.is_none());
    assert!(
        diagnostics[0].message.contains("ns/far is an ExternalName"),
        "{}",
        diagnostics[0]
    );
}

#[test]
fn a_pod_without_service_is_in_the_mesh_and_serves_nothing() {
    let (snapshot, diagnostics) = joined(&[meshed("job", "runner", &["10.0.0.1"])]);
    assert_eq!(diagnostics, []);
    let pod = &snapshot.pods.get("uid-job").unwrap();
    assert_eq!(&*pod.principal, "spiffe://cluster.local/ns/ns/sa/runner");
    assert!(pod.inbound.is_empty());
}

#[test]
fn a_service_without_ports_or_with_wrong_ones_harms_no_other() {
    let (snapshot, diagnostics) = joined(&[
        meshed("a", "a", &["10.0.0.1"]),
        service("bare", "clusterIP: None"),
        service("wrong", "clusterIP: None, ports: [{port: 70000}, {port: 80}]"),
        service("good", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
        endpoints("bare", "b", "", &of_pod("a", "10.0.0.1", "ready: true")),
        endpoints("wrong", "w", "{port: 80}", "{addresses: [not-an-address]}"),
        endpoints("good", "g", "{port: 80}", &of_pod("a", "10.0.0.1", "ready: true")),
    ]);
    let about: Vec<&str> = diagnostics.iter().map(|it| it.object.as_str()).collect();
    assert_eq!(about, ["Service ns/bare", "Service ns/wrong"]);
    assert_eq!(dialled(&snapshot, "good"), ["10.0.0.1:80"]);
    assert_eq!(direct(&snapshot, "10.0.0.1"), ["good"]);
}
