//! Whole pods, as files: `golden/NAME.yaml` is what a user writes, `golden/NAME.injected.yaml` the pod that runs. With
//! `WEIR_UPDATE_GOLDEN=1` the latter are written anew.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::*;

const CASES: [&str; 11] = [
    "all-annotations",
    "classic",
    "cron-job",
    "daemon-set",
    "deployment",
    "host-network",
    "init-containers",
    "job",
    "multi-container",
    "not-wanted",
    "stateful-set",
];

fn file(name: &str) -> PathBuf {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/injector/golden");
    PathBuf::from(directory).join(name)
}

/// The pod that Kubernetes makes of a workload.
fn pod_of(workload: &Value) -> Pod {
    let kind = workload["kind"].as_str().unwrap();
    let name = workload["metadata"]["name"].as_str().unwrap();
    let (template, owner) = match kind {
        "Pod" => return serde_json::from_value(workload.clone()).unwrap(),
        "Deployment" => (
            &workload["spec"]["template"],
            ("ReplicaSet", format!("{name}-5d8f")),
        ),
        "CronJob" => (
            &workload["spec"]["jobTemplate"]["spec"]["template"],
            ("Job", format!("{name}-2901")),
        ),
        kind => (&workload["spec"]["template"], (kind, name.to_owned())),
    };
    let group = if kind.ends_with("Job") {
        "batch/v1"
    } else {
        "apps/v1"
    };
    let mut pod = template.clone();
    let metadata = pod["metadata"].as_object_mut().unwrap();
    metadata.insert("generateName".to_owned(), json!(format!("{}-", owner.1)));
    let owner =
        json!({ "apiVersion": group, "kind": owner.0, "name": owner.1, "uid": "u", "controller": true });
    metadata.insert("ownerReferences".to_owned(), json!([owner]));
    if kind == "Deployment" {
        metadata["labels"]["pod-template-hash"] = json!("5d8f");
    }
    serde_json::from_value(pod).unwrap()
}

fn of_mesh() -> (NamespaceMeta, Settings) {
    let pairs = |pairs: &[(&str, &str)]| {
        let pair = |(key, value): &(&str, &str)| (format!("openservicemesh.io/{key}"), (*value).to_owned());
        pairs.iter().map(pair).collect()
    };
    let namespace = NamespaceMeta {
        name: "shop".to_owned(),
        labels: pairs(&[("monitored-by", "osm")]),
        annotations: pairs(&[("sidecar-injection", "enabled"), ("metrics", "enabled")]),
    };
    let settings = Settings {
        trust_bundle: "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".to_owned(),
        ..Settings::default()
    };
    (namespace, settings)
}

#[test]
fn workloads_become_the_pods_that_are_written_down() {
    let (namespace, settings) = of_mesh();
    for case in CASES {
        let text = fs::read_to_string(file(&format!("{case}.yaml"))).unwrap();
        let pod = pod_of(&serde_saphyr::from_str(&text).unwrap());
        let injected = inject(pod, &namespace, &settings).unwrap();
        let twice = inject(injected.clone(), &namespace, &settings).unwrap();
        assert_eq!(twice, injected, "{case}: asked again");
        let text = serde_saphyr::to_string(&injected).unwrap();
        let written = file(&format!("{case}.injected.yaml"));
        if std::env::var_os("WEIR_UPDATE_GOLDEN").is_some() {
            fs::write(&written, &text).unwrap();
        }
        let wanted = fs::read_to_string(&written).unwrap();
        assert_eq!(
            text, wanted,
            "{case}; if that is meant, run this test with WEIR_UPDATE_GOLDEN=1"
        );
    }
}

#[test]
fn every_file_is_a_case() {
    let mut files: Vec<_> = fs::read_dir(file(""))
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut cases: Vec<_> = CASES
        .iter()
        .flat_map(|it| [format!("{it}.yaml"), format!("{it}.injected.yaml")])
        .collect();
    cases.sort();
    assert_eq!(files, cases);
}
