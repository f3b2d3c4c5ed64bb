//! Manifests for tests. `$NS` stands for the test's namespace.

/// The namespace, monitored and injected.
pub(crate) fn namespace() -> String {
    "---
apiVersion: v1
kind: Namespace
metadata:
  name: $NS
  labels: {openservicemesh.io/monitored-by: osm}
  annotations: {openservicemesh.io/sidecar-injection: enabled}
"
    .to_owned()
}

/// A pod of the mesh with a ServiceAccount of its own. Its container only keeps it alive: tests serve from inside.
pub(crate) fn member(name: &str) -> String {
    pod(
        name,
        name,
        "",
        "{name: app, image: none, command: [sleep, infinity]}",
        "[]",
    )
}

/// A member with annotations, as YAML flow entries.
pub(crate) fn annotated(name: &str, annotations: &str) -> String {
    pod(
        name,
        name,
        annotations,
        "{name: app, image: none, command: [sleep, infinity]}",
        "[]",
    )
}

/// A pod outside the mesh.
pub(crate) fn outsider(name: &str) -> String {
    annotated(name, "openservicemesh.io/sidecar-injection: disabled")
}

/// A pod with a container and volumes as YAML flow values, and a label `app`.
pub(crate) fn pod(name: &str, app: &str, annotations: &str, container: &str, volumes: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: $NS}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: $NS
  labels: {{app: {app}, pod: {name}}}
  annotations: {{{annotations}}}
spec:
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers: [{container}]
  volumes: {volumes}
"
    )
}

/// A Service for pods with a label `app` of the same name. Ports as YAML flow maps.
pub(crate) fn service(name: &str, ports: &str) -> String {
    service_of(name, &format!("app: {name}"), ports)
}

/// A Service with a selector.
pub(crate) fn service_of(name: &str, selector: &str, ports: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: $NS}}
spec:
  selector: {{{selector}}}
  ports: [{ports}]
"
    )
}

/// A headless Service for pods with a label `app` of the same name.
pub(crate) fn headless(name: &str, ports: &str) -> String {
    service(name, ports).replace("spec:\n", "spec:\n  clusterIP: None\n")
}

/// Lets clients send any HTTP request to a server.
pub(crate) fn allow_http(server: &str, clients: &[&str]) -> String {
    let matches = "{name: any, pathRegex: '.*', methods: ['*']}";
    routes(&format!("{server}-any"), matches)
        + &target(server, clients, "HTTPRouteGroup", &format!("{server}-any"), "any")
}

/// Lets clients connect to a server's ports.
pub(crate) fn allow_tcp(server: &str, clients: &[&str], ports: &str) -> String {
    let route = format!(
        "---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {{name: {server}-tcp, namespace: $NS}}
spec: {{matches: {{ports: [{ports}]}}}}
"
    );
    route + &target(server, clients, "TCPRoute", &format!("{server}-tcp"), "")
}

/// An HTTPRouteGroup with matches as YAML flow maps.
pub(crate) fn routes(name: &str, matches: &str) -> String {
    format!(
        "---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: {name}, namespace: $NS}}
spec:
  matches: [{matches}]
"
    )
}

/// A TrafficTarget with one rule.
pub(crate) fn target(server: &str, clients: &[&str], kind: &str, rule: &str, matches: &str) -> String {
    let sources: Vec<String> = clients
        .iter()
        .map(|client| format!("{{kind: ServiceAccount, name: {client}, namespace: $NS}}"))
        .collect();
    let matches = match matches {
        "" => String::new(),
        some => format!(", matches: [{some}]"),
    };
    format!(
        "---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: {server}-{rule}-{}, namespace: $NS}}
spec:
  destination: {{kind: ServiceAccount, name: {server}, namespace: $NS}}
  rules: [{{kind: {kind}, name: {rule}{matches}}}]
  sources: [{}]
",
        clients.join("-"),
        sources.join(", ")
    )
}

/// A TrafficSplit; backends with their weights.
pub(crate) fn split(apex: &str, backends: &[(&str, u32)]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|(service, weight)| format!("{{service: {service}, weight: {weight}}}"))
        .collect();
    format!(
        "---
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {{name: {apex}, namespace: $NS}}
spec:
  service: {apex}
  backends: [{}]
",
        backends.join(", ")
    )
}
