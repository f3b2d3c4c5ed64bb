//! What everything else stands on: pods get their sidecars, start and stop with them, and reach each other.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    Outcome, Tests,
    scene::{Scene, Target},
    world::World,
};

/// Adds the tests.
pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.permissive("basics::pods_of_the_mesh_talk_over_it", talk);
    tests.permissive("basics::a_job_completes", job);
    tests.permissive("basics::pods_outside_have_no_sidecar", outside);
}

/// A Deployment of one pod of the demo's program, with its ServiceAccount, and a Service for a port that it serves.
fn app(name: &str, arguments: &[&str], port: Option<(u16, &str)>) -> String {
    let mut container = json!({
        "name": "app",
        "image": "weir-bookstore:latest",
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
    });
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name},
    })];
    if let Some((port, protocol)) = port {
        container["ports"] = json!([{"containerPort": port}]);
        container["readinessProbe"] = match protocol {
            "http" => json!({"httpGet": {"path": "/ready", "port": port}}),
            _ => json!({"tcpSocket": {"port": port}}),
        };
        let ports = json!([{"port": port, "name": protocol}]);
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": ports},
        }));
    }
    objects.push(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"serviceAccountName": name, "containers": [container]},
            },
        },
    }));
    yaml(&objects)
}

/// JSON is YAML.
fn yaml(objects: &[Value]) -> String {
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    documents.join("\n---\n")
}

async fn talk(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "basics-talk").await?;
    scene
        .apply(&app("web", &["mirror", "--port=8080"], Some((8080, "http"))))
        .await?;
    scene
        .apply(&app("echo", &["echo", "--port=9000"], Some((9000, "tcp"))))
        .await?;
    scene.apply(&app("client", &["wait"], None)).await?;
    scene.ready(&["app=web", "app=echo", "app=client"]).await?;
    let client = scene.pod("app=client").await?;

    let fetch = ["weir-bookstore", "fetch", "http://web:8080/some/path"];
    scene
        .eventually("an answer of the web server", || async {
            let answer: Value = scene.exec(&client, "app", &fetch).await?.json()?;
            ensure!(answer["status"] == 200, "{answer}");
            let body: Value = serde_json::from_str(answer["body"].as_str().context("no body")?)?;
            ensure!(body["path"] == "/some/path", "{body}");
            Ok(())
        })
        .await?;
    let tell = ["weir-bookstore", "tell", "echo:9000", "hello"];
    scene
        .eventually("the echo", || async {
            scene.exec(&client, "app", &tell).await?.expect(0, "hello")
        })
        .await?;

    // The client's sidecar counts, as OSM's did.
    let counted = scene.scrape(&client).await?;
    let own = counted
        .of("osm_request_total")
        .filter(|sample| sample.label("source_name") == "client" && sample.label("response_code") == "200");
    ensure!(own.count() > 0, "its sidecar knows no request of the client's");
    Ok(())
}

async fn job(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "basics-job").await?;
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "app",
                "image": "weir-bookstore:latest",
                "imagePullPolicy": "IfNotPresent",
                "args": ["wait", "--for=1"],
            }],
        }}},
    });
    scene.apply(&job.to_string()).await?;
    let once = Target {
        version: "batch/v1",
        kind: "Job",
        name: "once",
    };
    scene
        .eventually("the Job to complete", || async {
            let job = scene.get(once).await?;
            let status = &job.data["status"];
            ensure!(status["succeeded"] == 1, "{status}");
            Ok(())
        })
        .await?;
    let pods = scene.list("job-name=once").await?;
    ensure!(pods.iter().all(has_sidecar), "it ran without a sidecar");
    Ok(())
}

async fn outside(world: Arc<World>) -> Outcome {
    let scene = Scene::outside(&world, "basics-outside").await?;
    scene.apply(&app("plain", &["wait"], None)).await?;
    scene.ready(&["app=plain"]).await?;
    let pods = scene.list("app=plain").await?;
    ensure!(!pods.iter().any(has_sidecar), "it has a sidecar");
    Ok(())
}

fn has_sidecar(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let init = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten();
    let all = init.chain(spec.iter().flat_map(|spec| &spec.containers));
    all.into_iter().any(|container| container.name == "weir-proxy")
}
