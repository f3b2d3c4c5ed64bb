use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::build,
    spec::{self, Document, ObjectName, Source},
};

fn settings() -> Settings {
    Settings {
        mesh_name: "osm".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        namespace: "weir-system".to_owned(),
    }
}

/// Something that happens to an object.
#[derive(Clone, Debug)]
enum Event {
    Put(String),
    Gone(&'static str, &'static str, String),
}

impl Event {
    fn apply(&self, objects: &mut Objects) {
        match self {
            Self::Put(text) => put(objects, text),
            Self::Gone(kind, namespace, name) => {
                objects.remove(kind, &ObjectName::new(namespace, name));
            }
        }
    }
}

fn put(objects: &mut Objects, text: &str) {
    let source = Source {
        file: "objects.yaml".into(),
        line: 1,
        text: text.into(),
    };
    match spec::read(&source) {
        Ok(Document::Object(key, object, _)) => drop(objects.insert(key.name, object)),
        other => panic!("{text}: {other:?}"),
    }
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "a", "b"])
}

fn pod() -> impl Strategy<Value = Event> {
    let shape = (0..4_u8, 0..3_u8, 0..5_u8, any::<[bool; 3]>(), 0..20_u8);
    (namespace(), shape).prop_map(|(namespace, (name, account, ip, [twin, v6, _], odd))| {
        let uid = if odd == 1 { "one-for-all".to_owned() } else { format!("{namespace}-{name}-{twin}") };
        let sidecar = if odd == 2 { "other" } else { "weir-proxy" };
        let phase = if odd == 3 { "Failed" } else { "Running" };
        let ips = if v6 { format!(", podIPs: [{{ip: 10.0.0.{ip}}}, {{ip: 'fd00::{ip}'}}]") } else { String::new() };
        Event::Put(format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{name}, namespace: {namespace}, uid: {uid}}}, spec: \
             {{serviceAccountName: sa{account}, hostNetwork: {}, containers: [{{name: {sidecar}}}]}}, status: \
             {{phase: {phase}, podIP: 10.0.0.{ip}{ips}}}}}",
            odd == 4
        ))
    })
}

fn slice() -> impl Strategy<Value = Event> {
    let endpoint = (
        0..5_u8,
        prop::option::of(0..4_u8),
        prop::sample::select(vec![
            "ready: true",
            "ready: false",
            "ready: false, terminating: true, serving: true",
        ]),
        any::<bool>(),
    );
    let shape = (0..3_u8, 0..4_u8, 0..2_u8, prop::collection::vec(endpoint, 0..4));
    (namespace(), shape).prop_map(|(namespace, (service, name, port, endpoints))| {
        let endpoints = endpoints.iter().map(|(ip, pod, state, v6)| {
            let pod = pod.map(|pod| format!(", targetRef: {{kind: Pod, name: p{pod}}}"));
            let address = if *v6 { format!("'fd00::{ip}'") } else { format!("10.0.0.{ip}") };
            format!("{{addresses: [{address}], conditions: {{{state}}}{}}}", pod.unwrap_or_default())
        });
        Event::Put(format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: e{name}, \
             namespace: {namespace}, labels: {{kubernetes.io/service-name: s{service}}}}}, ports: [{{name: n0, port: \
             808{port}}}, {{name: n1, port: 8080}}], endpoints: [{}]}}",
            endpoints.collect::<Vec<_>>().join(", ")
        ))
    })
}

fn service() -> impl Strategy<Value = Event> {
    let protocol = prop::sample::select(vec!["http", "grpc", "tcp", "odd"]);
    let ports = prop::collection::vec((80..83_u16, 0..2_u8, protocol), 0..3);
    (namespace(), 0..3_u8, 0..5_u8, ports).prop_map(|(namespace, name, ip, ports)| {
        let spec = match ip {
            0 => "type: ExternalName, externalName: example.com".to_owned(),
            1 => "clusterIP: None".to_owned(),
            2 => "clusterIP: 10.1.0.2, clusterIPs: [10.1.0.2, 'fd00:1::2']".to_owned(),
            _ => format!("clusterIP: 10.1.0.{ip}"),
        };
        let ports = ports.iter().map(|(number, name, protocol)| {
            format!("{{port: {number}, name: n{name}, appProtocol: {protocol}}}")
        });
        Event::Put(format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{name}, namespace: {namespace}}}, spec: {{{spec}, \
             ports: [{}]}}}}",
            ports.collect::<Vec<_>>().join(", ")
        ))
    })
}

fn policy() -> impl Strategy<Value = Event> {
    let target = (namespace(), 0..3_u8, 0..3_u8, 0..3_u8, any::<bool>()).prop_map(
        |(namespace, name, destination, source, http)| {
            let rule = if http { "HTTPRouteGroup" } else { "TCPRoute" };
            Event::Put(format!(
                "{{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {{name: t{name}, namespace: \
                 {namespace}}}, spec: {{destination: {{kind: ServiceAccount, name: sa{destination}, namespace: \
                 {namespace}}}, sources: [{{kind: ServiceAccount, name: sa{source}, namespace: a}}], rules: [{{kind: \
                 {rule}, name: r}}]}}}}"
            ))
        },
    );
    let group = (namespace(), 0..2_u8).prop_map(|(namespace, path)| {
        Event::Put(format!(
            "{{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {{name: r, namespace: \
             {namespace}}}, spec: {{matches: [{{name: m, pathRegex: /{path}, methods: [GET]}}]}}}}"
        ))
    });
    let route = (namespace(), 8080..8082_u16).prop_map(|(namespace, port)| {
        Event::Put(format!(
            "{{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {{name: r, namespace: {namespace}}}, \
             spec: {{matches: {{name: m, ports: [{port}]}}}}}}"
        ))
    });
    let account = (namespace(), 0..3_u8).prop_map(|(namespace, name)| {
        Event::Put(format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: sa{name}, namespace: {namespace}}}}}"
        ))
    });
    let split = (namespace(), 0..2_u8, 0..4_u8, 0..3_u8, 0..3_u8).prop_map(|(namespace, name, apex, backend, weight)| {
        Event::Put(format!(
            "{{apiVersion: split.smi-spec.io/v1alpha2, kind: TrafficSplit, metadata: {{name: x{name}, namespace: \
             {namespace}}}, spec: {{service: s{apex}, backends: [{{service: s{backend}, weight: {weight}}}, {{service: \
             s1, weight: 1}}]}}}}"
        ))
    });
    prop_oneof![target, group, route, account, split]
}

fn mesh() -> impl Strategy<Value = Event> {
    let config = any::<(bool, bool)>().prop_map(|(permissive, egress)| {
        Event::Put(format!(
            "{{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {{name: osm-mesh-config, \
             namespace: weir-system}}, spec: {{traffic: {{enablePermissiveTrafficPolicyMode: {permissive}, \
             enableEgress: {egress}}}}}}}"
        ))
    });
    let namespace = (namespace(), 0..4_u8).prop_map(|(name, out)| {
        let by = if out == 0 { "another" } else { "osm" };
        Event::Put(format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{openservicemesh.io/monitored-by: \
             {by}}}}}}}"
        ))
    });
    prop_oneof![config, namespace]
}

fn gone() -> impl Strategy<Value = Event> {
    let kinds = vec![
        ("Pod", "p"),
        ("EndpointSlice", "e"),
        ("Service", "s"),
        ("TrafficTarget", "t"),
        ("TrafficSplit", "x"),
        ("ServiceAccount", "sa"),
    ];
    let one = (prop::sample::select(kinds), namespace(), 0..4_u8)
        .prop_map(|((kind, prefix), namespace, n)| Event::Gone(kind, namespace, format!("{prefix}{n}")));
    let route = (
        prop::sample::select(vec!["HTTPRouteGroup", "TCPRoute"]),
        namespace(),
    )
        .prop_map(|(kind, namespace)| Event::Gone(kind, namespace, "r".to_owned()));
    let whole = namespace().prop_map(|name| Event::Gone("Namespace", "", name.to_owned()));
    prop_oneof![8 => one, 1 => route, 1 => whole]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![4 => pod(), 5 => slice(), 3 => service(), 3 => policy(), 1 => mesh(), 3 => gone()]
}

fn start() -> Objects {
    let mut objects = Objects::default();
    for name in ["a", "b"] {
        put(
            &mut objects,
            &format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: \
                 {{openservicemesh.io/monitored-by: osm}}}}}}"
            ),
        );
    }
    objects
}

/// Services that are split, with endpoints and a policy: what there is for events to spoil.
fn busy() -> Objects {
    let mut objects = start();
    for namespace in ["a", "b"] {
        let named = |kind: &str, name: &str| {
            format!("kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}")
        };
        for n in 0..3 {
            put(
                &mut objects,
                &format!(
                    "{{apiVersion: v1, kind: Pod, metadata: {{name: p{n}, namespace: {namespace}, uid: {namespace}-{n}}}, \
                     spec: {{serviceAccountName: sa{n}, containers: [{{name: weir-proxy}}]}}, status: {{podIP: 10.0.0.{n}}}}}"
                ),
            );
            put(
                &mut objects,
                &format!(
                    "{{apiVersion: v1, {}, spec: {{clusterIP: 10.1.1.{n}, ports: [{{port: 80, name: n1}}]}}}}",
                    named("Service", &format!("s{n}"))
                ),
            );
            put(
                &mut objects,
                &format!(
                    "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: e{n}, \
                     namespace: {namespace}, labels: {{kubernetes.io/service-name: s{n}}}}}, ports: [{{name: n1, port: \
                     8080}}], endpoints: [{{addresses: [10.0.0.{n}], targetRef: {{kind: Pod, name: p{n}}}}}]}}"
                ),
            );
        }
        put(
            &mut objects,
            &format!(
                "{{apiVersion: specs.smi-spec.io/v1alpha4, {}, spec: {{matches: {{name: m, ports: [8080]}}}}}}",
                named("TCPRoute", "r")
            ),
        );
        put(
            &mut objects,
            &format!(
                "{{apiVersion: access.smi-spec.io/v1alpha3, {}, spec: {{destination: {{kind: ServiceAccount, name: sa0, \
                 namespace: {namespace}}}, sources: [{{kind: ServiceAccount, name: sa2, namespace: a}}], rules: [{{kind: \
                 TCPRoute, name: r}}]}}}}",
                named("TrafficTarget", "t0")
            ),
        );
        put(
            &mut objects,
            &format!(
                "{{apiVersion: split.smi-spec.io/v1alpha2, {}, spec: {{service: s2, backends: [{{service: s0, weight: \
                 1}}, {{service: s1, weight: 1}}]}}}}",
                named("TrafficSplit", "x0")
            ),
        );
    }
    objects
}

/// Says which part differs, not only that one does.
fn check(now: &Snapshot, last: &Snapshot, whole: &Snapshot) -> Result<(), TestCaseError> {
    prop_assert_eq!(&now.mesh, &whole.mesh);
    prop_assert_eq!(&now.services, &whole.services);
    prop_assert_eq!(&now.addresses, &whole.addresses);
    prop_assert_eq!(&now.direct, &whole.direct);
    prop_assert_eq!(&now.pods, &whole.pods);
    prop_assert_eq!(&now.diagnostics, &whole.diagnostics);
    prop_assert_eq!(now.generation, last.generation + 1);
    for change in last.services.changes(&now.services, Arc::ptr_eq) {
        prop_assert_ne!(change.old, change.new, "an equal service is another");
    }
    for change in last.pods.changes(&now.pods, Arc::ptr_eq) {
        prop_assert_ne!(change.old, change.new, "an equal pod is another");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn it_comes_to_what_a_whole_build_comes_to(
        empty in any::<bool>(),
        first in prop::collection::vec(event(), 0..30),
        then in prop::collection::vec(prop::collection::vec(event(), 1..4), 1..16),
    ) {
        let mut objects = if empty { start() } else { busy() };
        first.iter().for_each(|event| event.apply(&mut objects));
        let mut catalog = Catalog::new(settings(), Arc::default());
        let mut last = catalog.update(&objects);
        check(&last, &Snapshot::default(), &build(None, &objects, &settings()))?;
        for events in &then {
            events.iter().for_each(|event| event.apply(&mut objects));
            let now = catalog.update(&objects);
            check(&now, &last, &build(None, &objects, &settings()))?;
            last = now;
        }
        let anew = Catalog::new(settings(), last.clone()).update(&objects);
        check(&anew, &last, &last)?;
    }
}

/// A mesh of so many services with ten pods each.
fn large(services: usize) -> Objects {
    let mut objects = start();
    for service in 0..services {
        let ips: Vec<String> = (0..10)
            .map(|n| format!("10.{}.{}.{n}", service / 250, service % 250))
            .collect();
        for ip in &ips {
            put(
                &mut objects,
                &format!(
                    "{{apiVersion: v1, kind: Pod, metadata: {{name: p-{ip}, namespace: a, uid: u-{ip}}}, spec: \
                     {{serviceAccountName: sa{service}, containers: [{{name: weir-proxy}}]}}, status: {{podIP: {ip}}}}}"
                ),
            );
        }
        put(
            &mut objects,
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s{service}, namespace: a}}, spec: {{clusterIP: \
                 172.16.{}.{}, ports: [{{port: 80, name: http}}]}}}}",
                service / 250,
                service % 250
            ),
        );
        put(&mut objects, &ready(service, &ips));
    }
    objects
}

fn ready(service: usize, ips: &[String]) -> String {
    let endpoints: Vec<String> = ips
        .iter()
        .map(|ip| format!("{{addresses: [{ip}], targetRef: {{kind: Pod, name: p-{ip}}}}}"))
        .collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: e{service}, \
         namespace: a, labels: {{kubernetes.io/service-name: s{service}}}}}, ports: [{{name: http, port: 8080}}], \
         endpoints: [{}]}}",
        endpoints.join(", ")
    )
}

/// What the going of an endpoint costs, in the middle of many.
fn cost_of_a_change(services: usize) -> Duration {
    let mut objects = large(services);
    let mut catalog = Catalog::new(settings(), Arc::default());
    let mut last = catalog.update(&objects);
    let mut costs: Vec<Duration> = (0..200)
        .map(|n| {
            let service = n % services;
            let left = 1 + n / services % 5..10;
            let ips = left.map(|n| format!("10.{}.{}.{n}", service / 250, service % 250));
            put(&mut objects, &ready(service, &ips.collect::<Vec<_>>()));
            let started = Instant::now();
            let now = catalog.update(&objects);
            let changed = last.services.changes(&now.services, Arc::ptr_eq).count();
            let cost = started.elapsed();
            assert_eq!(changed, 1, "services for one EndpointSlice");
            last = now;
            cost
        })
        .collect();
    costs.sort();
    costs[costs.len() / 2]
}

/// Its figures are for people: run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_change_costs() {
    for services in [100, 1_000, 10_000] {
        let objects = large(services);
        let started = Instant::now();
        let snapshot = build(None, &objects, &settings());
        let whole = started.elapsed();
        println!(
            "{services} services, {} pods: a change {:?}, a whole build {whole:?}",
            snapshot.pods.len(),
            cost_of_a_change(services)
        );
    }
}

#[test]
fn a_change_costs_the_same_in_a_mesh_ten_times_as_large() {
    let (small, large) = (cost_of_a_change(40), cost_of_a_change(400));
    // Ten times, were it to look at everything.
    assert!(
        large < small * 4 + Duration::from_micros(200),
        "{small:?} and {large:?}"
    );
}
