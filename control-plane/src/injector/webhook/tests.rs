use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::spec::{Document, Object, Stored, read_json};

/// Roots that parse as PEM.
const ROOTS: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

/// A webhook whose watch knows these objects, and an API server that knows this namespace (`null`: it fails).
struct Scene {
    webhook: Webhook,
    asked: Arc<AtomicUsize>,
}

fn namespace(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "shop",
            "labels": { "openservicemesh.io/monitored-by": "osm" },
            "annotations": annotations,
        },
    })
}

fn scene(watched: Option<Value>, actual: Value) -> Scene {
    let mut objects = Objects::default();
    if let Some(watched) = watched {
        let value = serde_json::from_value(watched).unwrap();
        let stored = Arc::new(Stored {
            value,
            source: Default::default(),
        });
        objects.namespaces = [(ObjectName::new("", "shop"), stored)].into_iter().collect();
    }
    let config = json!({ "metadata": { "name": MeshConfig::NAME, "namespace": "weir-system" },
        "spec": { "sidecar": { "logLevel": "trace" } } });
    match read_json("config.openservicemesh.io/v1alpha2", "MeshConfig", &config) {
        Document::Object(key, Object::MeshConfig(config), _) => {
            objects.mesh_configs = [(key.name, config)].into_iter().collect();
        }
        other => panic!("{other:?}"),
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let client = Client::new(
        tower::service_fn(move |_: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            let (status, body) = if actual.is_null() {
                (500, json!({}))
            } else {
                (200, actual.clone())
            };
            let response = Response::builder()
                .status(status)
                .body(Body::from(body.to_string().into_bytes()));
            std::future::ready(Ok::<_, Infallible>(response.unwrap()))
        }),
        "default",
    );
    let trust = TrustBundle::from_pem(ROOTS).unwrap();
    let webhook = Webhook::new(
        Settings::default(),
        watch::channel(Arc::new(objects)).1,
        watch::channel(Arc::new(trust)).1,
        client,
    );
    Scene { webhook, asked }
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "web-", "creationTimestamp": null, "annotations": annotations },
        "spec": { "containers": [{ "name": "web", "novel": { "of": "a newer Kubernetes" } }] },
    })
}

/// The pod as it becomes, or why it does not.
async fn become_of(scene: &Scene, pod: &Value) -> Result<Value, String> {
    let request = json!({
        "uid": "u",
        "kind": { "group": "", "version": "v1", "kind": "Pod" },
        "resource": { "group": "", "version": "v1", "resource": "pods" },
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {},
        "object": pod,
        "dryRun": true,
    });
    let answer = scene
        .webhook
        .review(serde_json::from_value(request).unwrap())
        .await;
    if !answer.allowed {
        return Err(answer.result.message);
    }
    let mut pod = pod.clone();
    if let Some(patch) = answer.patch {
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
    }
    Ok(pod)
}

fn arguments(pod: &Value) -> String {
    pod["spec"]["initContainers"][1]["args"].to_string()
}

#[tokio::test]
async fn a_pod_of_a_known_namespace_is_injected_as_the_mesh_is_now() {
    let scene = scene(
        Some(namespace(
            &json!({ "openservicemesh.io/sidecar-injection": "enabled" }),
        )),
        Value::Null,
    );
    let pod = become_of(&scene, &pod(&json!({}))).await.unwrap();
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "weir-proxy");
    assert_eq!(pod["spec"]["containers"][0]["novel"]["of"], "a newer Kubernetes");
    assert!(arguments(&pod).contains("--log-level=trace"), "MeshConfig");
    assert!(arguments(&pod).contains("BEGIN CERTIFICATE"), "roots");
    assert!(pod["metadata"].get("namespace").is_none(), "{pod}");
    assert_eq!(scene.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_namespace_that_the_watch_does_not_know_yet_is_asked_for() {
    let actual = namespace(&json!({ "openservicemesh.io/sidecar-injection": "enabled" }));
    for watched in [None, Some(namespace(&json!({})))] {
        let scene = scene(watched, actual.clone());
        let pod = become_of(&scene, &pod(&json!({}))).await.unwrap();
        assert_eq!(pod["spec"]["initContainers"][1]["name"], "weir-proxy");
        assert_eq!(scene.asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn without_an_answer_about_the_namespace_no_pod_slips_in() {
    let why = become_of(&scene(None, Value::Null), &pod(&json!({})))
        .await
        .unwrap_err();
    assert!(why.contains("namespace shop") && why.contains("again"), "{why}");
}

#[tokio::test]
async fn a_wrong_annotation_is_denied_by_name() {
    let scene = scene(Some(namespace(&json!({}))), Value::Null);
    let asked = json!({ "openservicemesh.io/sidecar-injection": "yes", "openservicemesh.io/sidecar-cpu-limit": "lots" });
    let why = become_of(&scene, &pod(&asked)).await.unwrap_err();
    assert!(why.contains("sidecar-cpu-limit") && why.contains("lots"), "{why}");
}

#[tokio::test]
async fn a_pod_that_wants_none_is_let_in_as_it_is() {
    let scene = scene(None, namespace(&json!({})));
    let pod = pod(&json!({}));
    assert_eq!(become_of(&scene, &pod).await, Ok(pod));
}
