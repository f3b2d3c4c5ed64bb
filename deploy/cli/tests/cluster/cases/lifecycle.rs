//! Pods and controllers that come and go.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    client::{gets, gets_nothing},
    load::Load,
    manifest::{App, service},
};
use crate::{
    Outcome, Tests,
    scene::{Scene, Target},
    world::{SYSTEM, World},
};

const WEB: &str = "{name: http-web, port: 8080}";
const URL: &str = "http://server:8080/";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.permissive("lifecycle::a_job_completes", job);
    tests.permissive("lifecycle::nothing_is_left_of_a_pod", garbage);
    tests.permissive("lifecycle::a_rolling_update_fails_no_request", rolling);
    tests.alone("lifecycle::controllers_restart_under_load", controllers);
}

/// A server of some pods, and a client.
async fn stage(world: &Arc<World>, namespace: &str, replicas: u8) -> anyhow::Result<(Arc<Scene>, String)> {
    let scene = Scene::open(world, namespace).await?;
    let server = App {
        replicas,
        container: "readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}}",
        ..App::new("server", "mirror --port=8080")
    };
    let objects = [
        server.deployment(),
        service("server", "server", WEB),
        App::client("client").deployment(),
    ];
    scene.apply(&objects.concat()).await?;
    scene.replicas("app=server", replicas.into()).await?;
    let client = scene.pod("app=client").await?;
    gets(&scene, &client, URL, 200).await?;
    Ok((Arc::new(scene), client))
}

/// Its only container asks through the sidecar at once, and its pod ends with it.
async fn job(world: Arc<World>) -> Outcome {
    let (scene, _) = stage(&world, "job", 1).await?;
    let job = App::new("job", "fetch http://server:8080/ --times=5");
    let object = format!(
        "---\n{{apiVersion: batch/v1, kind: Job, metadata: {{name: job}}, spec: {{backoffLimit: 0, template: {{{}}}}}}}\n",
        job.template().replace("spec: {", "spec: {restartPolicy: Never, ")
    );
    scene.apply(&(job.identity() + &object)).await?;
    let target = Target {
        version: "batch/v1",
        kind: "Job",
        name: "job",
    };
    let completed = || async {
        let job = scene.get(target).await?;
        let status = job.data.get("status").cloned().unwrap_or_default();
        ensure!(status.get("succeeded") == Some(&json!(1)), "{status}");
        Ok(())
    };
    scene.eventually("the Job to complete", completed).await
}

/// When a Deployment goes, no sidecar sends there any more, and no Secret was ever made.
async fn garbage(world: Arc<World>) -> Outcome {
    let (scene, client) = stage(&world, "garbage", 2).await?;
    let endpoints = || async {
        let told = world
            .weir(&["proxy", "endpoints", &client, "-n", "garbage", "-o", "json"])
            .await?;
        let page: Value = serde_json::from_str(&told)?;
        Ok::<_, anyhow::Error>(page.to_string().matches("\"pod\":\"server-").count())
    };
    ensure!(
        endpoints().await? >= 2,
        "the client does not know both pods of the server"
    );
    let target = Target {
        version: "apps/v1",
        kind: "Deployment",
        name: "server",
    };
    scene.delete(target).await?;
    let forgotten = || async {
        let left = endpoints().await?;
        ensure!(left == 0, "{left} endpoints are left");
        Ok(())
    };
    scene
        .eventually("the sidecar to forget the server", forgotten)
        .await?;
    gets_nothing(&scene, &client, URL).await?;
    let secrets = Api::<Secret>::namespaced(scene.client(), "garbage");
    let secrets = secrets.list(&ListParams::default()).await?.items;
    ensure!(secrets.is_empty(), "{secrets:?}");
    Ok(())
}

/// The application ends the moment it is told to; its sidecar and its clients' make up for it.
async fn rolling(world: Arc<World>) -> Outcome {
    let (scene, client) = stage(&world, "rolling", 2).await?;
    let load = Load::start(&scene, &client, URL, 2);
    let deployments = Api::<Deployment>::namespaced(scene.client(), "rolling");
    for _ in 0..2 {
        restart(&scene, &deployments, "server").await?;
    }
    load.end(400).await
}

/// New controllers while requests are made and pods come and go.
async fn controllers(world: Arc<World>) -> Outcome {
    let permissive = json!({"traffic": {"enablePermissiveTrafficPolicyMode": true}});
    world.configure(&json!({"spec": permissive})).await?;
    let (scene, client) = stage(&world, "controllers", 1).await?;
    let load = Load::start(&scene, &client, URL, 2);
    let system = Api::<Deployment>::namespaced(world.client(), SYSTEM);
    let servers = Api::<Deployment>::namespaced(scene.client(), "controllers");
    tokio::try_join!(
        restart(&scene, &system, "weir-controller"),
        restart(&scene, &servers, "server"),
    )?;
    load.end(400).await?;
    gets(&scene, &client, URL, 200).await?;
    Ok(())
}

/// As `kubectl rollout restart` does; until every pod is a new one.
async fn restart(scene: &Scene, deployments: &Api<Deployment>, name: &str) -> anyhow::Result<()> {
    let now = json!({"weir.test/restarted": format!("{:?}", SystemTime::now())});
    let change = json!({"spec": {"template": {"metadata": {"annotations": now}}}});
    let patched = deployments
        .patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await?;
    let wanted = patched.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let generation = patched.metadata.generation;
    let done = || async {
        let status = deployments.get(name).await?.status.context("no status")?;
        ensure!(
            status.observed_generation >= generation
                && status.updated_replicas == Some(wanted)
                && status.available_replicas == Some(wanted)
                && status.replicas == Some(wanted),
            "{status:?}"
        );
        Ok(())
    };
    scene.eventually(&format!("{name} to be rolled out"), done).await
}
