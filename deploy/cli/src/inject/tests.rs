use serde_json::{Value, json};

use super::*;

fn run(text: &str) -> anyhow::Result<(Vec<Value>, String)> {
    let settings = Settings::default();
    let (output, report) = inject(&[("f.yaml".to_owned(), text.to_owned())], "shop", &settings)?;
    let documents = output.split("---\n").filter(|text| !text.trim().is_empty());
    let documents = documents
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect();
    Ok((documents, report))
}

fn workload(kind: &str, path: &str) -> Value {
    let template = json!({ "spec": { "containers": [{ "name": "app", "image": "app" }] } });
    let spec = path
        .rsplit('/')
        .filter(|name| !name.is_empty())
        .fold(template, |value, name| json!({ name: value }));
    let mut object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "web" } });
    object["spec"] = spec["spec"].clone();
    object
}

fn is_injected(pod: &Value) -> bool {
    let has = |path: &str| {
        let containers = pod.pointer(path).and_then(Value::as_array);
        containers.is_some_and(|containers| containers.iter().any(|it| it["name"] == "weir-proxy"))
    };
    has("/spec/initContainers") || has("/spec/containers")
}

#[test]
fn every_workload_kind_gets_a_sidecar() {
    let kinds = [
        ("Pod", ""),
        ("Deployment", "/spec/template"),
        ("StatefulSet", "/spec/template"),
        ("DaemonSet", "/spec/template"),
        ("ReplicaSet", "/spec/template"),
        ("Job", "/spec/template"),
        ("CronJob", "/spec/jobTemplate/spec/template"),
        ("Rollout", "/spec/template"),
    ];
    for (kind, path) in kinds {
        let (documents, report) = run(&workload(kind, path).to_string()).unwrap();
        assert!(
            is_injected(documents[0].pointer(path).unwrap()),
            "{kind}: {documents:?}"
        );
        assert_eq!(report, format!("{kind} shop/web injected\n"));
    }
}

#[test]
fn the_rest_is_passed_on_as_it_was() {
    let text = "# a comment\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
    let settings = Settings::default();
    let (output, report) = inject(&[("f".to_owned(), text.to_owned())], "shop", &settings).unwrap();
    assert_eq!(output, format!("---\n{text}"));
    assert_eq!(report, "");
}

#[test]
fn lists_are_injected_item_by_item() {
    let items = [workload("Deployment", "/spec/template"), workload("Pod", "")];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let (documents, report) = run(&list.to_string()).unwrap();
    assert!(is_injected(&documents[0]["items"][0]["spec"]["template"]));
    assert!(is_injected(&documents[0]["items"][1]));
    assert_eq!(report.lines().count(), 2);
}

#[test]
fn a_second_time_changes_nothing() {
    let (once, _) = run(&workload("Deployment", "/spec/template").to_string()).unwrap();
    let (twice, report) = run(&once[0].to_string()).unwrap();
    assert_eq!(once, twice);
    assert!(report.contains("has a sidecar already"), "{report}");
}

#[test]
fn metrics_name_the_workload_and_not_a_pod() {
    let (documents, _) = run(&workload("StatefulSet", "/spec/template").to_string()).unwrap();
    let text = documents[0]["spec"]["template"].to_string();
    assert!(text.contains("StatefulSet"), "{text}");
    assert!(!text.contains("ownerReferences"), "{text}");
}

#[test]
fn annotations_and_the_network_of_the_node_are_heeded() {
    let mut pod = workload("Pod", "");
    pod["metadata"]["annotations"] = json!({ "openservicemesh.io/sidecar-injection": "disabled" });
    assert!(run(&pod.to_string()).unwrap().1.contains("asks for no sidecar"));
    let mut pod = workload("Pod", "");
    pod["spec"]["hostNetwork"] = json!(true);
    assert!(run(&pod.to_string()).unwrap().1.contains("node's network"));
    let mut pod = workload("Pod", "");
    pod["metadata"]["namespace"] = json!("kube-system");
    assert!(run(&pod.to_string()).unwrap().1.contains("never has sidecars"));
}

#[test]
fn a_namespace_among_the_manifests_counts() {
    let text = "kind: Namespace\napiVersion: v1\nmetadata:\n  name: shop\n  annotations: {openservicemesh.io/metrics: enabled}\n---\n";
    let (documents, _) = run(&format!("{text}{}", workload("Deployment", "/spec/template"))).unwrap();
    let annotations = &documents[1]["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "15010");
}

#[test]
fn what_is_refused_names_file_line_and_workload() {
    let mut pod = workload("Pod", "");
    pod["metadata"]["annotations"] = json!({ "openservicemesh.io/sidecar-injection": "perhaps" });
    let error = format!("{:#}", run(&pod.to_string()).unwrap_err());
    assert!(
        error.contains("f.yaml:1: Pod shop/web: ") && error.contains("perhaps"),
        "{error}"
    );
    assert!(run("a: [").is_err());
}
