use std::{fs, path::Path};

use weir_controller::{
    catalog::Settings,
    endpoints::{Objects, Store},
    spec::ObjectName,
};

use super::{answer::Answer, judge::judge, named};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo");

fn settings() -> Settings {
    Settings {
        mesh_name: "osm".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        namespace: "weir-system".to_owned(),
    }
}

fn pod(namespace: &str, name: &str, sidecar: bool, ip: u8) -> String {
    let containers = if sidecar {
        "{name: app}, {name: weir-proxy}"
    } else {
        "{name: app}"
    };
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, uid: uid-{name}}}, \
         spec: {{serviceAccountName: {name}, containers: [{containers}]}}, status: {{podIP: 10.0.0.{ip}}}}}\n"
    )
}

fn slice(namespace: &str, service: &str, port: (&str, u16), ip: u8) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {service}, \
         namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}, \
         ports: [{{name: {}, port: {}}}], endpoints: [{{addresses: [10.0.0.{ip}]}}]}}\n",
        port.0, port.1
    )
}

/// The demo, with these files of its policies.
fn demo(permissive: bool, policies: &[&str]) -> Objects {
    let mut store = Store::new(1);
    let directory = Path::new(DEMO);
    for entry in fs::read_dir(directory.join("manifests")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("PolicyMode: true", &format!("PolicyMode: {permissive}"));
        store.put(0, &path.to_string_lossy(), &text);
    }
    let pods = [
        pod("bookbuyer", "bookbuyer", true, 1),
        pod("bookthief", "bookthief", false, 2),
        pod("bookstore", "bookstore", true, 3),
        pod("bookwarehouse", "bookwarehouse", true, 4),
        pod("bookwarehouse", "mysql", true, 5),
        slice("bookstore", "bookstore", ("http-books", 14001), 3),
        slice("bookwarehouse", "bookwarehouse", ("books", 14001), 4),
        slice("bookwarehouse", "mysql", ("mysql", 3306), 5),
    ];
    store.put(0, "pods.yaml", &pods.concat());
    for policy in policies {
        let text = fs::read_to_string(directory.join("policies").join(format!("{policy}.yaml"))).unwrap();
        store.put(0, policy, &text);
    }
    store.objects()
}

fn ask(objects: &Objects, source: &str, destination: &str) -> Answer {
    judge(
        objects,
        &settings(),
        &named(source, "x"),
        &named(destination, "x"),
    )
    .unwrap()
}

#[test]
fn a_traffic_target_is_named_with_what_it_allows() {
    let objects = demo(false, &["routes", "allow-bookbuyer", "allow-warehouse"]);
    let answer = ask(&objects, "bookbuyer/bookbuyer", "bookstore/bookstore");
    assert!(answer.allowed);
    let text = answer.to_string();
    assert!(
        text.starts_with("allowed: Pod bookbuyer/bookbuyer (ServiceAccount bookbuyer/bookbuyer) to "),
        "{text}"
    );
    assert!(
        text.contains("port 14001, http, of Service bookstore/bookstore"),
        "{text}"
    );
    assert!(
        text.contains("GET .*a-book.*new, by TrafficTarget bookstore/"),
        "{text}"
    );
    assert!(text.contains("GET /books-bought with user-agent: "), "{text}");
    let answer = ask(&objects, "bookwarehouse/bookwarehouse", "bookwarehouse/mysql");
    assert!(
        answer
            .to_string()
            .contains("connections, by TrafficTarget bookwarehouse/"),
        "{answer}"
    );
}

#[test]
fn without_a_target_one_is_asked_for() {
    let objects = demo(false, &[]);
    let answer = ask(&objects, "bookbuyer/bookbuyer", "bookstore/bookstore");
    assert!(!answer.allowed);
    assert_eq!(answer.remarks.len(), 1, "{answer}");
    assert!(
        answer
            .to_string()
            .contains("no TrafficTarget leads to it; apply one in namespace bookstore"),
        "{answer}"
    );
}

#[test]
fn a_target_without_this_source_is_named() {
    let objects = demo(false, &["routes", "allow-bookbuyer"]);
    let answer = ask(&objects, "bookwarehouse/bookwarehouse", "bookstore/bookstore");
    assert!(!answer.allowed);
    assert!(
        answer
            .to_string()
            .contains("is not among its sources; add to spec.sources"),
        "{answer}"
    );
}

#[test]
fn a_target_whose_routes_are_missing_says_so() {
    let objects = demo(false, &["allow-bookbuyer"]);
    let answer = ask(&objects, "bookbuyer/bookbuyer", "bookstore/bookstore");
    assert!(!answer.allowed);
    assert!(
        answer.to_string().contains("there is no HTTPRouteGroup"),
        "{answer}"
    );
}

#[test]
fn permissive_mode_allows_everything_to_the_mesh_only() {
    let objects = demo(true, &[]);
    let answer = ask(&objects, "bookbuyer/bookbuyer", "bookwarehouse/mysql");
    assert!(
        answer
            .to_string()
            .contains("everything, by MeshConfig weir-system/"),
        "{answer}"
    );
    let answer = ask(&objects, "bookthief/bookthief", "bookstore/bookstore");
    assert!(!answer.allowed);
    assert!(
        answer
            .to_string()
            .contains("accepts mTLS only; bring it in: weir namespace add bookthief"),
        "{answer}"
    );
    let answer = ask(&objects, "bookbuyer/bookbuyer", "bookthief/bookthief");
    assert!(answer.to_string().contains("no policy guards it"), "{answer}");
    // The demo's MeshConfig lets nobody out of the mesh.
    assert!(
        !answer.allowed && answer.to_string().contains("spec.traffic.enableEgress is off"),
        "{answer}"
    );
}

#[test]
fn a_pod_that_is_not_there_is_an_error() {
    let objects = demo(true, &[]);
    let [gone, there] = ["x/gone", "bookstore/bookstore"].map(|pod| named(pod, "x"));
    let error = judge(&objects, &settings(), &gone, &there).unwrap_err();
    assert!(
        error.to_string().contains("there is no running Pod x/gone"),
        "{error}"
    );
    assert_eq!(named("alone", "x"), ObjectName::new("x", "alone"));
}
