//! Health probes of every kind, which the kubelet makes from outside of the mesh.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;

use super::manifest::App;
use crate::{
    Outcome, Tests,
    scene::{Scene, pods::is_ready},
    world::World,
};

/// How long a pod that must not become ready is watched: several probes.
const WATCHED: Duration = Duration::from_secs(6);

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("probes::http_https_tcp_grpc", probes);
}

/// Startup, liveness and readiness probes that ask the same.
fn all(probe: &str) -> String {
    let probe = format!("periodSeconds: 1, {probe}");
    format!(
        "startupProbe: {{{probe}, failureThreshold: 60}}, livenessProbe: {{{probe}}}, readinessProbe: {{{probe}}}"
    )
}

async fn probes(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "probes").await?;
    let good = [
        (
            "http",
            "mirror --port=8080",
            all("httpGet: {path: /health, port: 8080}"),
        ),
        (
            "https",
            "mirror --tls-port=8443",
            all("httpGet: {path: /health, port: 8443, scheme: HTTPS}"),
        ),
        ("tcp", "echo --port=9000", all("tcpSocket: {port: 9000}")),
        ("grpc", "mirror --port=8080", all("grpc: {port: 8080}")),
    ];
    let bad = [
        (
            "bad-tcp",
            "echo --port=9000",
            "readinessProbe: {periodSeconds: 1, tcpSocket: {port: 9001}}",
        ),
        (
            "bad-http",
            "mirror --port=8080",
            "readinessProbe: {periodSeconds: 1, httpGet: {path: /status/500, port: 8080}}",
        ),
    ];
    let mut objects = String::new();
    for (name, args, container) in good
        .iter()
        .map(|(name, args, probes)| (*name, *args, probes.as_str()))
        .chain(bad)
    {
        let app = App {
            container,
            ..App::new(name, args)
        };
        objects.push_str(&app.deployment());
    }
    scene.apply(&objects).await?;
    for (name, _, _) in &good {
        scene.ready(&[&format!("app={name}")]).await?;
    }
    for (name, _, _) in bad {
        let label = format!("app={name}");
        let runs = || async {
            let pods = scene.list(&label).await?;
            let statuses = pods
                .iter()
                .filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
            ensure!(
                statuses
                    .flatten()
                    .any(|it| it.name == "app" && it.started == Some(true)),
                "{name} does not run"
            );
            Ok(())
        };
        scene.eventually("the application to run", runs).await?;
        let unready = || async {
            let pods = scene.list(&label).await?;
            ensure!(pods.iter().all(|pod| is_ready(pod).is_err()), "{name} is ready");
            Ok(())
        };
        scene.always("the pod is not ready", WATCHED, unready).await?;
    }
    for (name, _, _) in &good {
        for pod in scene.list(&format!("app={name}")).await? {
            let statuses = pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten());
            let restarts: i32 = statuses.map(|status| status.restart_count).sum();
            ensure!(restarts == 0, "{name} was restarted {restarts} times");
        }
    }
    Ok(())
}
