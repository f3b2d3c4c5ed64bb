use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

fn values(layers: &[Value]) -> anyhow::Result<Values> {
    Values::new(layers)
}

fn find<'a>(objects: &'a [DynamicObject], kind: &str) -> &'a DynamicObject {
    let found = |object: &&DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == kind);
    objects.iter().find(found).unwrap()
}

#[test]
fn defaults_leave_the_files_as_they_are() {
    let rendered = objects("weir-system", &values(&[]).unwrap()).unwrap();
    for ((name, text), object) in OBJECTS.iter().zip(rendered) {
        let file: Value = read(name, text).unwrap();
        assert_eq!(serde_json::to_value(object).unwrap(), file, "{name}");
    }
}

#[test]
fn every_file_is_in_the_kustomization_and_built_in() {
    let kustomization: Value =
        serde_saphyr::from_str(include_str!("../../../chart/kustomization.yaml")).unwrap();
    let listed: BTreeSet<&str> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource.as_str().unwrap())
        .collect();
    let built_in: BTreeSet<&str> = CRDS.iter().chain(&OBJECTS).map(|(name, _)| *name).collect();
    assert_eq!(listed, built_in);
}

#[test]
fn the_version_is_the_same_everywhere() {
    let chart: Value = serde_saphyr::from_str(include_str!("../../../chart/Chart.yaml")).unwrap();
    assert_eq!(chart["version"], VERSION);
    assert_eq!(chart["appVersion"], VERSION);
    let objects = objects("weir-system", &values(&[]).unwrap()).unwrap();
    let labels = find(&objects, "Deployment").metadata.labels.as_ref().unwrap();
    assert_eq!(labels["app.kubernetes.io/version"], VERSION);
}

#[test]
fn every_kind_keeps_its_status_apart_and_shows_it() {
    let crds = crds().unwrap();
    assert_eq!(crds.len(), 10);
    for crd in crds {
        assert_eq!(
            crd.spec.versions.iter().filter(|version| version.storage).count(),
            1
        );
        for version in &crd.spec.versions {
            let status = version.subresources.as_ref().and_then(|it| it.status.as_ref());
            assert!(status.is_some(), "{:?} {}", crd.metadata.name, version.name);
            let columns = version.additional_printer_columns.as_deref().unwrap_or_default();
            assert!(columns.iter().any(|column| column.name == "Accepted"));
        }
    }
}

#[test]
fn versions_of_a_kind_have_one_schema() {
    for crd in crds().unwrap() {
        let schemas: Vec<_> = crd.spec.versions.iter().map(|version| &version.schema).collect();
        assert!(
            schemas.windows(2).all(|pair| pair[0] == pair[1]),
            "{:?}",
            crd.metadata.name
        );
    }
}

#[test]
fn another_namespace_is_named_wherever_it_counts() {
    let values = values(&[json!({ "meshName": "m", "image": { "registry": "r.example/x/" } })]).unwrap();
    let text = serde_json::to_string(&objects("other", &values).unwrap()).unwrap();
    assert!(!text.contains("weir-system"), "{text}");
    assert!(text.contains("--proxy-image=r.example/x/weir-proxy:0.1.0"));
    assert!(text.contains(r#""openservicemesh.io/monitored-by":"m""#));
    assert!(text.contains(r#"["kube-system","kube-public","kube-node-lease","other"]"#));
}

#[test]
fn the_injector_cannot_hold_up_the_cluster() {
    let objects = objects("weir-system", &values(&[]).unwrap()).unwrap();
    let selector = &find(&objects, "MutatingWebhookConfiguration").data["webhooks"][0]["namespaceSelector"];
    assert_eq!(
        selector["matchLabels"],
        json!({ "openservicemesh.io/monitored-by": "osm" })
    );
    let names = &selector["matchExpressions"][2];
    assert_eq!(names["key"], "kubernetes.io/metadata.name");
    assert_eq!(names["operator"], "NotIn");
}

#[test]
fn set_reads_names_with_dots_and_values_of_all_types() {
    let set = |text: &str| overrides::parse_set(text).unwrap();
    assert_eq!(set("a.b=true"), json!({ "a": { "b": true } }));
    assert_eq!(
        set(r"a.kubernetes\.io/os=linux"),
        json!({ "a": { "kubernetes.io/os": "linux" } })
    );
    assert_eq!(set("a={1,2}"), json!({ "a": [1, 2] }));
    assert_eq!(set("a=[b, c]"), json!({ "a": ["b", "c"] }));
    assert_eq!(set("a={x: 1}"), json!({ "a": { "x": 1 } }));
    assert_eq!(set("a={b, 007}"), json!({ "a": ["b", "007"] }));
    assert_eq!(set("a={}"), json!({ "a": [] }));
    for text in ["24h", "y", "on", "1.5", "007"] {
        assert_eq!(set(&format!("a={text}")), json!({ "a": text }));
    }
    assert_eq!(set("a=x=y"), json!({ "a": "x=y" }));
    assert_eq!(set("a="), json!({ "a": "" }));
    assert_eq!(set("a=null"), json!({ "a": null }));
    for wrong in ["a", "=1", "a..b=1", "a=[1"] {
        assert!(overrides::parse_set(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn later_layers_win_and_null_takes_away() {
    let values = values(&[
        json!({ "controller": { "replicas": 3, "nodeSelector": { "disk": "ssd" } } }),
        json!({ "controller": { "replicas": 4, "nodeSelector": { "kubernetes.io/os": null } } }),
        Value::Null,
    ])
    .unwrap();
    assert_eq!(values.controller.replicas, 4);
    assert_eq!(json!(values.controller.node_selector), json!({ "disk": "ssd" }));
}

#[test]
fn wrong_values_are_refused_by_name() {
    let refused = [
        (json!({ "controller": { "replica": 3 } }), "controller.replica;"),
        (json!({ "controller": { "replicas": 0 } }), "controller.replicas"),
        (json!({ "image": { "pullPolicy": "Sometimes" } }), "Sometimes"),
        (json!({ "meshName": "-" }), "meshName"),
        (json!({ "trustDomain": "Upper.Case" }), "trustDomain"),
        (
            json!({ "injector": { "timeoutSeconds": 31 } }),
            "injector.timeoutSeconds",
        ),
        (
            json!({ "controller": { "podAnnotations": { "a": true } } }),
            "boolean",
        ),
        (json!("text"), "not a map"),
    ];
    for (layer, named) in refused {
        let error = format!("{:#}", values(&[layer]).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn values_of_osm_are_translated() {
    let layer = overrides::parse_set("osm.enablePermissiveTrafficPolicy=false").unwrap();
    let error = format!("{:#}", values(&[layer]).unwrap_err());
    assert!(
        error.contains("meshConfig.spec.traffic.enablePermissiveTrafficPolicyMode"),
        "{error}"
    );
    let layer = overrides::parse_set("osm.deployPrometheus=true").unwrap();
    assert!(format!("{:#}", values(&[layer]).unwrap_err()).contains("no counterpart"));
}

#[test]
fn the_controller_understands_its_flags() {
    let objects = objects("weir-system", &values(&[]).unwrap()).unwrap();
    let arguments = &find(&objects, "Deployment").data["spec"]["template"]["spec"]["containers"][0]["args"];
    let mut command = vec![CONTROLLER];
    command.extend(
        arguments
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap()),
    );
    <weir_controller::config::Args as clap::Parser>::try_parse_from(command).unwrap();
}
