//! Several ports of a service, several services of a pod, ports of other names and numbers than the pods'.

use std::sync::Arc;

use anyhow::ensure;

use super::{
    client::gets,
    manifest::{App, allow_http, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

/// Each service port, and the port that it leads to.
const PORTS: [(&str, u16); 4] = [
    ("first:80", 8081),
    ("first:81", 8082),
    ("second:80", 8083),
    ("third:8081", 8081),
];

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("ports::several_ports_and_services", several);
}

async fn several(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "ports").await?;
    let server = App {
        container: "ports: [{name: named, containerPort: 8082}]",
        ..App::new("server", "mirror --port=8081 --port=8082 --port=8083")
    };
    let first = "{name: http-a, port: 80, targetPort: 8081}, {name: http-b, port: 81, targetPort: named}";
    let objects = [
        server.deployment(),
        service("first", "server", first),
        service("second", "server", "{name: http-c, port: 80, targetPort: 8083}"),
        service("third", "server", "{name: http-d, port: 8081}"),
        App::client("client").deployment(),
        allow_http("ports", "server", &["client"]),
    ];
    scene.apply(&objects.concat()).await?;
    scene.ready(&["app=server", "app=client"]).await?;
    let client = scene.pod("app=client").await?;
    for (to, port) in PORTS {
        for answer in gets(&scene, &client, &format!("http://{to}/"), 200).await? {
            ensure!(answer.seen()?.port == port, "{to}: {answer:?}");
        }
    }
    Ok(())
}
